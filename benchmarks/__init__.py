"""How fast the supervisor is beside what the machine can do at all: ``python -m benchmarks``.

Every figure is taken beside its limit in the same run, in paired rounds, and given as a median and a
ratio: machines are shared and noisy, and single figures mean little.
"""
