"""Who could replace what stands at a path: everyone who may write a directory above it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from supervisor.system import trust
from supervisor.system.trust import exposure_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
OTHER = 54321


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    path = tmp_path / "a" / "b" / "c"
    path.mkdir(parents=True)
    for each in (tmp_path, tmp_path / "a", tmp_path / "a" / "b", path):
        each.chmod(0o700)
    return path


def test_a_private_path_is_exposed_to_nobody(deep: Path) -> None:
    assert exposure_of(str(deep)) is None
    assert exposure_of(str(deep / "missing" / "too")) is None
    assert exposure_of("/") is None


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707, 0o775, 0o722, 0o702])
@pytest.mark.parametrize("up", [0, 1])
def test_a_directory_above_that_others_may_write(deep: Path, mode: int, up: int) -> None:
    above = deep.parents[up]
    above.chmod(mode)
    found = exposure_of(str(deep))
    assert found is not None
    assert (found.place, found.owner) == (str(above), None)
    assert f"{mode:04o}" in found.why
    assert f"chmod go-w {above}" in found.repair
    above.chmod(mode | 0o1000)  # as /tmp
    assert exposure_of(str(deep)) is None


def test_the_path_itself_is_for_its_user_to_judge(deep: Path) -> None:
    deep.chmod(0o777)
    assert exposure_of(str(deep)) is None
    found = exposure_of(str(deep / "missing"))
    assert found is not None
    assert found.place == str(deep)


def test_the_directories_of_every_link_on_the_way_count(deep: Path, tmp_path: Path) -> None:
    open_ = tmp_path / "open"
    open_.mkdir()
    (open_ / "link").symlink_to(deep.parent)
    (tmp_path / "first").symlink_to("open/link")
    assert exposure_of(str(tmp_path / "first" / "c")) is None
    open_.chmod(0o777)
    found = exposure_of(str(tmp_path / "first" / "c"))
    assert found is not None
    assert found.place == str(open_)
    assert exposure_of(str(deep)) is None


def test_where_a_link_leads_counts_and_dots_are_followed_as_the_system_does(deep: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(deep)
    deep.parent.chmod(0o777)
    for path in (f"{tmp_path}/link", f"{tmp_path}/link/x", f"{tmp_path}/link/../y"):
        found = exposure_of(path)
        assert found is not None, path
        assert found.place == str(deep.parent)


@as_root
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777])
def test_a_directory_above_of_another_user(deep: Path, mode: int) -> None:
    deep.parent.chmod(mode)
    os.chown(deep.parent, OTHER, -1)
    found = exposure_of(str(deep))
    assert found is not None
    assert (found.place, found.owner) == (str(deep.parent), OTHER)
    assert str(OTHER) in found.repair


@as_root
def test_a_link_of_another_user(deep: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(deep)
    os.chown(tmp_path / "link", OTHER, -1, follow_symlinks=False)
    found = exposure_of(str(tmp_path / "link" / "x"))
    assert found is not None
    assert (found.place, found.owner) == (str(tmp_path / "link"), OTHER)


def test_directories_of_root_are_trusted_by_other_users(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.stat(deep).st_uid != 0:
        pytest.skip("they are not root's here")
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    assert exposure_of(str(deep)) is None


@as_root
@pytest.mark.parametrize(("maps", "trusted"), [("0 1000 1\n", True), ("0 0 4294967295\n", False), (None, False)])
def test_owners_without_a_number_in_our_namespace(
    deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maps: str | None, *, trusted: bool
) -> None:
    files = {"/proc/sys/kernel/overflowuid": f"{OTHER}\n", "/proc/self/uid_map": maps}

    def opened(path: str, **_: object) -> object:
        text = files[path]
        if text is None:
            raise PermissionError(errno.EACCES, "refused", path)
        held = tmp_path / "held"
        held.write_text(text)
        return held.open()

    monkeypatch.setattr(trust, "open", opened, raising=False)
    os.chown(deep.parent, OTHER, -1)
    assert (exposure_of(str(deep)) is None) is trusted


def test_a_loop_of_links_is_an_error_and_no_answer(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        exposure_of(str(tmp_path / "a" / "x"))
