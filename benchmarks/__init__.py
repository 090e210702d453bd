"""How fast the supervisor is beside its peers and beside what the machine can do: ``python -m benchmarks``.

Every figure is taken beside its limit and its peers in the same run, in interleaved rounds, and given as a
median and as ratios: machines are shared and noisy, and single figures mean little.
"""
