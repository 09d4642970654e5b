"""calls.py COUNT [timed]: calls of a function that does nothing, COUNT for each line that is read; a line
back when they are made.

timed: with a profiler that does nothing either, so that CPython 3.11 tells where a call begins, too.
"""

import sys


def nothing() -> None:
    """Nothing."""


def calls(count: int) -> None:
    """One call more than `count`, with this one."""
    for _ in range(count):
        nothing()


def main() -> None:
    """Until the input ends."""
    if "timed" in sys.argv:
        sys.setprofile(slice)
    for _ in sys.stdin:
        calls(int(sys.argv[1]))
        print(flush=True)


main()
