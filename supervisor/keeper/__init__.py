"""The program that outlives the supervisor and is the parent of the jobs; other tools call it a monitor or a shim.

It runs with the standard library only (``python -I -S``), as do those modules of ``jobdir`` and ``system`` that it has.
"""
