"""Files without a name, in memory and on the disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from supervisor.system.unnamed_files import unnamed_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_is_written_is_read_and_no_name_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_memory: bool
) -> None:
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif not hasattr(os, "memfd_create"):
        pytest.skip("there are no files in memory")
    descriptor = unnamed_file("stdin", tmp_path)
    with open(descriptor, "r+b") as file:
        assert not os.get_inheritable(descriptor)
        file.write(b"x" * 100_000)
        file.seek(0)
        assert len(file.read()) == 100_000
    assert list(tmp_path.iterdir()) == []
