"""Benchmarks: `python -m bench [NAME…]`. What each measures, and how to read it: docs/benchmarks.md.

reading   reading a map: ours beside a C batch loop, a C loop by key, bcc and bpftool
delay     how long others on the same CPU wait while a large map is read
tick      a whole tick (map to frames) beside reading alone
wire      columns beside rows of dicts, as msgpack
agent     the running agent: memory, CPU, start-up; beside other tools' memory
cost      what the programs cost in the kernel, per event; beside libbpf-tools
"""
