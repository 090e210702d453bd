"""The version of this release: here, and nowhere else."""

__version__ = "0.1.0"
