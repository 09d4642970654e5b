"""How long each x86-64 instruction is, and which of them return: no more of a disassembler than that takes.

Source: Intel's manual, volume 2, appendix A (opcode maps) and chapter 2 (prefixes, ModRM, VEX, EVEX). The
tests compare with objdump on whole binaries.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Undecodable", "instructions", "returns"]


class Undecodable(ValueError):
    """Raised where bytes are no instruction that is known here."""


_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_NOTHING, _MODRM, _IMM8, _IMM16, _IMMZ, _REL32 = 0, 1, 2, 4, 8, 16
"""What follows an opcode, as bits; _IMMZ is 4 bytes, or 2 after a prefix 66."""


def _one_byte() -> list[int | None]:
    table: list[int | None] = [None] * 256
    for base in range(0, 0x40, 8):
        table[base : base + 6] = [_MODRM] * 4 + [_IMM8, _IMMZ]
    _set(table, "50-5f 6c-6f 90-99 9b-9f a4-a7 aa-af c3 c9 cb cc cf d7 ec-ef f1 f4 f5 f8-fd", _NOTHING)
    _set(table, "63 84-8f d0-d3 d8-df fe ff f6 f7", _MODRM)
    _set(table, "6a 70-7f a8 b0-b7 cd e0-e7 eb", _IMM8)
    _set(table, "6b 80 83 c0 c1 c6", _MODRM | _IMM8)
    _set(table, "69 81 c7", _MODRM | _IMMZ)
    _set(table, "68 a9 b8-bf", _IMMZ)
    _set(table, "c2 ca", _IMM16)
    _set(table, "c8", _IMM16 | _IMM8)
    _set(table, "e8 e9", _REL32)
    return table


def _two_bytes() -> list[int | None]:
    table: list[int | None] = [_MODRM] * 256
    _set(table, "05-09 0b 0e 30-35 37 77 a0-a2 a8-aa c8-cf", _NOTHING)
    _set(table, "0f 70-73 a4 ac ba c2 c4-c6", _MODRM | _IMM8)
    _set(table, "80-8f", _REL32)
    for unknown in (0x04, 0x0A, 0x0C, 0x24, 0x25, 0x26, 0x27, 0x36, 0x39, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F):
        table[unknown] = None
    return table


def _set(table: list[int | None], codes: str, what: int) -> None:
    for part in codes.split():
        first, _, last = part.partition("-")
        for code in range(int(first, 16), int(last or first, 16) + 1):
            table[code] = what


_ONE, _TWO = _one_byte(), _two_bytes()


def returns(code: bytes) -> list[int]:
    """Offsets of the return instructions of a function's code; raises Undecodable naming the offset.

    The code must be instructions to its last byte, as a compiler's function is; the padding behind it is not
    part of it.
    """
    return [at for at, is_return in instructions(code) if is_return]


def instructions(code: bytes) -> Iterator[tuple[int, bool]]:
    """(offset, whether it returns) of each instruction; raises Undecodable as `returns` does."""
    at = 0
    while at < len(code):
        try:
            length, is_return = _decode(code, at)
        except IndexError:
            raise Undecodable(f"the instruction at offset {at:#x} goes beyond the function's end") from None
        yield at, is_return
        at += length
    if at > len(code):
        raise Undecodable("the last instruction goes beyond the function's end")


def _decode(code: bytes, start: int) -> tuple[int, bool]:
    """(length, whether it returns) of the instruction at `start`; IndexError at the end of the code."""
    at = start
    short = wide = narrow = False
    while code[at] in _PREFIXES:
        short |= code[at] == 0x66
        narrow |= code[at] == 0x67
        at += 1
    if code[at] & 0xF0 == 0x40:
        wide = bool(code[at] & 8)
        at += 1
    opcode = code[at]
    at += 1
    if opcode in (0xC4, 0xC5, 0x62):
        return _extended(code, opcode, at) - start, False
    if opcode == 0x0F:
        opcode = code[at]
        at += 1
        if opcode in (0x38, 0x3A):
            at = _operand(code, at + 1) + (opcode == 0x3A)
            return at - start, False
        follows = _TWO[opcode]
    else:
        follows = _ONE[opcode]
        if opcode in (0xA0, 0xA1, 0xA2, 0xA3):
            return at + (4 if narrow else 8) - start, False
        if 0xB8 <= opcode <= 0xBF and wide:
            return at + 8 - start, False
        if opcode in (0xF6, 0xF7) and code[at] & 0x38 <= 0x08:
            follows = _MODRM | (_IMM8 if opcode == 0xF6 else _IMMZ)
        if opcode in (0xC2, 0xC3):
            return at + (2 if opcode == 0xC2 else 0) - start, True
    if follows is None:
        raise Undecodable(
            f"the bytes at offset {start:#x} are no instruction that is known: {code[start]:#x}"
        )
    if follows & _MODRM:
        at = _operand(code, at)
    at += bool(follows & _IMM8) + 2 * bool(follows & _IMM16) + 4 * bool(follows & _REL32)
    if follows & _IMMZ:
        at += 2 if short and not wide else 4
    return at - start, False


def _extended(code: bytes, prefix: int, at: int) -> int:
    """The end of a VEX (c4, c5) or EVEX (62) instruction; `at` is behind that byte."""
    if prefix == 0xC5:
        table, at = 1, at + 1
    elif prefix == 0xC4:
        table, at = code[at] & 0x1F, at + 2
    else:
        table, at = code[at] & 7, at + 3
    opcode = code[at]
    at += 1
    if table == 1 and opcode == 0x77:
        return at
    if table not in (1, 2, 3, 5, 6):
        raise Undecodable(f"there is no opcode map {table} (offset {at:#x})")
    at = _operand(code, at)
    follows = _TWO[opcode] or 0
    return at + (table == 3 or (table == 1 and bool(follows & _IMM8)))


def _operand(code: bytes, at: int) -> int:
    """The end of ModRM, SIB and displacement that begin at `at`."""
    mode, register = code[at] >> 6, code[at] & 7
    at += 1
    if mode == 3:
        return at
    if register == 4:
        base = code[at] & 7
        at += 1
        if mode == 0 and base == 5:
            return at + 4
    elif mode == 0 and register == 5:
        return at + 4
    return at + (0, 1, 4)[mode]
