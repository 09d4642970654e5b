"""The supervisor: root, small, imports no plugin, opens no network socket.

    __main__     the loop: worker, loaders, signals
    holdings     what is in the kernel: a copy of every fd, so that no worker's end detaches anything
    launch       how worker and loader processes are started
    privileges   what the worker may do: no user rights but its own, no capability
    confinement  a mount namespace where the worker's user can't reach the code

Standard library and msgpack only.
"""
