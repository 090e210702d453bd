"""Which paths may keep a caller waiting, told from the mount table alone."""

from __future__ import annotations

import builtins
import io
from typing import Any

import pytest

from supervisor import mounts

ROOT = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    def mounted(*lines: str) -> None:
        text = ROOT + "".join(f"30 22 0:1 / {line} x rw\n" for line in lines)
        real = builtins.open

        def fake(path: Any, *rest: Any, **named: Any) -> Any:
            return io.StringIO(text) if path == "/proc/self/mountinfo" else real(path, *rest, **named)

        monkeypatch.setattr(builtins, "open", fake)

    return mounted


@pytest.mark.parametrize(
    ("lines", "hangs"),
    [
        ([], False),
        (["/home rw - ext4"], False),
        (["/mnt/far rw - nfs4"], True),
        (["/mnt/far rw - fuse.sshfs"], True),
        (["/net rw - autofs"], True),
        (["/proc/sys/fs/binfmt_misc rw - autofs", "/sys/fs/fuse/connections rw - fusectl"], False),
    ],
)
def test_may_hang(table: Any, lines: list[str], *, hangs: bool) -> None:
    table(*lines)
    assert mounts.may_hang() is hangs


def test_the_nearest_mount_decides(table: Any) -> None:
    table("/mnt rw - ext4", "/mnt/far rw - nfs4", "/mnt/far/near rw - xfs", "/mnt/with\\040space rw - nfs")
    assert mounts.file_system_of("/mnt/near") == "ext4"
    assert mounts.on_network("/mnt/far/away")
    assert not mounts.on_network("/mnt/far/near/by")
    assert not mounts.on_network("/mnt/farther")
    assert mounts.on_network("/mnt/with space/x")


def test_without_a_mount_table_everything_may_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(builtins, "open", refuse)
    assert mounts.may_hang()
