"""The supervisor for programs that are not written in Trio.

``portal`` runs a Trio program on a thread of its own and takes calls from other threads. ``aio`` and
``threads`` are the interface of ``Supervisor`` on top of it; ``docs/generate_facades.py`` generates their methods.
"""
