"""A process per host that owns sockets and registered memory for its workers.

Python's sockets beside a model in one interpreter wait for each other; the agent has
an interpreter of its own, and shares an arena with the workers.
"""
