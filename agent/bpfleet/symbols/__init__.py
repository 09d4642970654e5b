"""Names of addresses: of the kernel, and of the programs that processes run. No rights are needed.

table      functions sorted by address; many addresses looked up at once
kallsyms   the kernel's
elf_file   those of a program or library
processes  which files a process has mapped where
naming     from addresses of a process to names, through all of these
"""
