"""The supervisor for programs that are not written in Trio.

``portal`` runs a Trio program on a thread of its own and takes calls from other threads; ``aio`` and
``threads`` put the interface of ``Supervisor`` before it, for asyncio and for plain threads.
"""
