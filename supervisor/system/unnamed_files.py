"""Files without a name: in memory where the kernel has such files, else deleted as soon as they are made."""

from __future__ import annotations

import os
import tempfile

__all__ = ["unnamed_file"]


def unnamed_file(purpose: str, directory: str | os.PathLike[str] | None = None) -> int:
    """Return a descriptor of a new empty file, to read and write. Child processes do not inherit it.

    Args:
        purpose: a word that a person sees who looks at the descriptors of the process.
        directory: where the file is if it cannot be in memory; by default, the one for temporary files.

    Raises:
        OSError: there is no space, or no descriptor is free.
    """
    if hasattr(os, "memfd_create"):
        in_memory: int = os.memfd_create(purpose)
        return in_memory
    descriptor, path = tempfile.mkstemp(prefix=f".{purpose}-", dir=directory)
    os.unlink(path)
    return descriptor
