"""Draining maps: events are taken out of a map, each once, into columns; no Python per event.

drainer  one drained map as the tick sees it
pending  rows that wait for the next snapshot, within a bound
records  where the records of a ring begin, found by numpy
ring     BPF ring buffers
perf     perf event arrays: a ring for each CPU
pops     queues and stacks
book     what was taken and told, in memory that outlives a worker
pace     when a map must be drained before the next snapshot
"""
