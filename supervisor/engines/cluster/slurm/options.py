"""What a job may ask of Slurm. It stands by itself because the options of ``supervisor run`` are made of it."""

from __future__ import annotations

from typing import Final

__all__ = ["OPTIONS"]

# Not compiled: that would cost every `supervisor run` more than a `--slurm-memory` ever gains by it.
_WORD: Final = r"[A-Za-z0-9_.:@+=,/&|*()\[\]-]{1,200}"
_MEMORY: Final = r"[1-9][0-9]{0,8}[KMGT]?"
_GPUS: Final = r"([A-Za-z0-9_.-]{1,60}:)?[1-9][0-9]{0,3}"
_COUNT: Final = r"[1-9][0-9]{0,5}"

OPTIONS: Final = {
    "partition": ("--partition", _WORD, "the name of a partition, or several with commas"),
    "account": ("--account", _WORD, "the name of an account"),
    "qos": ("--qos", _WORD, "the name of a quality of service"),
    "cpus": ("--cpus-per-task", _COUNT, "a whole number of at least 1"),
    "memory": ("--mem", _MEMORY, "a number with K, M, G or T, such as 16G; without a letter it is MiB"),
    "gpus": ("--gpus", _GPUS, "a number, with a type and a colon before it if need be"),
    "constraint": ("--constraint", _WORD, "features that the node must have, as sbatch --constraint takes them"),
}
"""Option of ours: that of ``sbatch``, a pattern for all of its value, and that in words."""
