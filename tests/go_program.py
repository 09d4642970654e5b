"""A Go program with a function of known arguments and results, many return instructions, and goroutines."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["build", "run_go"]

SOURCE = """
package main

import (
	"fmt"
	"os"
	"strconv"
	"sync"
)

// nosplit: the function does not look whether its stack must grow. One that does, and grows it, begins once
// more from its first instruction, so that a probe there is hit twice.
//go:noinline
//go:nosplit
func work(number int, name string) int {
	switch {
	case number%4 == 0:
		return number + len(name)
	case number%4 == 1:
		return deep(number, 0)
	case name == "odd":
		return -number
	}
	return number * 2
}

// Needs a larger stack than a goroutine begins with, so the runtime moves it.
//go:noinline
func deep(number int, level int) int {
	var room [64]int
	if level == 200 {
		return number
	}
	room[level%64] = deep(number, level+1)
	return room[level%64]
}

func main() {
	calls, _ := strconv.Atoi(os.Args[1])
	routines, _ := strconv.Atoi(os.Args[2])
	sum := 0
	var lock sync.Mutex
	var all sync.WaitGroup
	for at := 0; at < routines; at++ {
		all.Add(1)
		go func(from int) {
			defer all.Done()
			part := 0
			for at := from; at < calls; at += routines {
				name := "even"
				if at%2 == 1 {
					name = "odd"
				}
				part += work(at, name)
			}
			lock.Lock()
			sum += part
			lock.Unlock()
		}(at)
	}
	all.Wait()
	fmt.Println(sum)
}
"""


def build(folder: Path) -> Path:
    """Compile it."""
    folder.mkdir(exist_ok=True)
    source = folder / "worker.go"
    source.write_text(SOURCE)
    cache = {
        "GOCACHE": str(folder / "cache"),
        "GOFLAGS": "-mod=mod",
        "GO111MODULE": "off",
        "GOTOOLCHAIN": "local",
    }
    subprocess.run(
        ["go", "build", "-o", "worker", "worker.go"],
        cwd=folder,
        env={**os.environ, **cache},
        check=True,
        timeout=300,
    )
    return folder / "worker"


def run_go(program: Path, calls: int, routines: int) -> int:
    """Run it, without a collection that would start goroutines of its own; returns the sum of results."""
    done = subprocess.run(
        [program, str(calls), str(routines)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "GOGC": "off"},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
