"""`retouch lab chaos`: the local stack under load, with faults in its processes, its broker and their connections, and an independent check of the result."""
