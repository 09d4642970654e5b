"""The worker: no privileges; imports the plugins, takes snapshots, runs the sinks.

tick        one tick, top to bottom: read → snapshot → record → deliver. Read this first.
__main__    start, seal, loop, end
collecting  a collector from its spec to readers over the fds that came back
delivery    a sink's queue and thread
ledger      what survives a worker: sequence numbers
status      what the agent says of itself
"""
