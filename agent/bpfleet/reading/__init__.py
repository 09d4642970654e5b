"""Reading maps: one read gives columns over the bytes that the kernel wrote.

ladder   which method reads a map, and the change from one to another
mapped   mmap: arrays and globals that are in our memory already
walk     the snapshot program
batch    BPF_MAP_LOOKUP_BATCH
bykey    BPF_MAP_GET_NEXT_KEY, where nothing else works
folding  per-CPU values to one, where the kernel has not done it
"""
