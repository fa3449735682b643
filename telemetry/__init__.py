"""How a process shows itself to whoever operates it: the metrics endpoint with health checks, and the log.

Nothing here knows what a router or a worker is; they hand over a registry and say whether they are ready.
"""
