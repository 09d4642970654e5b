// SPDX-License-Identifier: Apache-2.0
//
// calls COUNT: calls of a function that takes a number, of which there are 64, and a text.
package main

import (
	"fmt"
	"os"
	"strconv"
)

//go:noinline
func work(number int, name string) int {
	return number + len(name)
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: calls COUNT")
		os.Exit(2)
	}
	count, _ := strconv.Atoi(os.Args[1])
	sum := 0
	for at := 0; at < count; at++ {
		sum += work(at%64, "a text")
	}
	if sum < count {
		os.Exit(1)
	}
}
