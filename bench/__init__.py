"""How fast keylane is, beside what it could be at best and beside Kafka Streams. `make bench` runs all of it.

A module an idea; `run.py` puts them in order. Nothing in keylane imports this package.
"""
