"""Measures the supervisor next to other tools (peers) and next to limits of the machine: ``python -m benchmarks``.

Every figure is taken next to its limit and its peers in the same run, in interleaved rounds. It is given as a
median and as ratios: machines are shared and noisy, so single figures mean little.
"""
