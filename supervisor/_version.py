"""The version of this release: here, and nowhere else."""

__version__ = "0.2.0"
