"""`retouch lab chaos`: the local stack under load while its processes, its broker and their connections are hurt, and an independent check of what came out."""
