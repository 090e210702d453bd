from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.errors import PermissionDenied, StateFull, StateUnsafe, SupervisorError
from supervisor.keeper.helper_starts import lock_name, take_lock
from supervisor.store import Layout, is_job_id
from supervisor.store.state_errors import state_error
from supervisor.store.state_root import new_job_id, workspace_key
from supervisor.system import file_systems, processes

KEY = "repo-0123456789ab"


def mode(path: str | Path) -> int:
    return os.stat(path).st_mode & 0o777


@pytest.fixture(params=[0o022, 0o000, 0o777])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    previous = os.umask(request.param)
    yield
    os.umask(previous)


# ---------------------------------------------------------------- the root


@pytest.mark.usefixtures("_umask")
def test_everything_is_private_whatever_the_umask(tmp_path: Path) -> None:
    root = Layout(tmp_path / "state")
    directory = root.make_job(KEY, new_job_id(), b"{}")
    with root.locked():
        pass
    root.owners.register()
    for path in [Path(root.root), *Path(root.root).rglob("*")]:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    assert Path(directory, "job.json").read_bytes() == b"{}"


def test_a_root_is_made_with_what_is_missing_above_it(tmp_path: Path) -> None:
    root = Layout(tmp_path / "a" / "b" / "state")
    assert mode(root.root) == 0o700


@pytest.mark.usefixtures("_umask")
def test_what_is_made_above_a_root_is_private_whatever_the_umask(tmp_path: Path) -> None:
    Layout(tmp_path / "a" / "b" / "state")
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/state")] == [0o700] * 3


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("open_to", [0o777, 0o775, 0o702])
def test_a_root_below_a_directory_that_others_may_write_is_refused(
    tmp_path: Path, open_to: int, *, exists: bool
) -> None:
    above = tmp_path / "above"
    above.mkdir()
    if exists:
        Layout(above / "below" / "state")
    above.chmod(open_to)
    with pytest.raises(StateUnsafe, match=str(above)) as raised:
        Layout(above / "below" / "state")
    assert f"chmod go-w {above}" in raised.value.repair
    assert (above / "below").exists() is exists
    above.chmod(open_to | 0o1000)
    Layout(above / "below" / "state")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_no_root_is_made_in_the_home_of_another_user(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 54321, -1)
    with pytest.raises(StateUnsafe, match=f"{home} belongs to user 54321") as raised:
        Layout(home / ".local" / "state")
    assert "HOME" in raised.value.repair
    assert list(home.iterdir()) == []


def test_a_root_that_is_only_read_is_not_made(tmp_path: Path) -> None:
    root = Layout(tmp_path / "a" / "state", create=False)
    assert (root.workspaces(), root.discarded(), root.find(new_job_id())) == ([], [], None)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a" / "state").mkdir(parents=True, mode=0o700)
    Layout(tmp_path / "a" / "state", create=False)
    assert list((tmp_path / "a" / "state").iterdir()) == []


def test_a_root_without_its_trash_can_still_discard(tmp_path: Path) -> None:
    made = Layout(tmp_path / "state")
    job_id = new_job_id()
    made.make_job(KEY, job_id, b"{}")
    (tmp_path / "state" / ".trash").rmdir()
    root = Layout(tmp_path / "state", create=False)
    assert not root.discard(KEY, new_job_id())
    assert root.discard(KEY, job_id)
    assert not root.discard(KEY, job_id)
    assert [name.partition(".")[0] for name in root.discarded()] == [job_id]


def test_a_root_may_be_reached_through_a_link(tmp_path: Path) -> None:
    Layout(tmp_path / "state")
    (tmp_path / "link").symlink_to(tmp_path / "state")
    assert Layout(tmp_path / "link").root == str(tmp_path / "state")


@pytest.mark.parametrize("open_to", [0o750, 0o705, 0o701, 0o770, 0o777])
def test_a_root_that_is_open_to_others_is_refused(tmp_path: Path, open_to: int) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(open_to)
    with pytest.raises(StateUnsafe, match=f"{open_to:04o}") as raised:
        Layout(tmp_path / "state")
    assert "chmod 700" in raised.value.repair
    assert mode(tmp_path / "state") == open_to
    assert list((tmp_path / "state").iterdir()) == []


def test_a_root_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    stranger = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    with pytest.raises(StateUnsafe, match=f"not to you \\({stranger}\\)"):
        Layout(tmp_path / "state")


def test_a_root_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StateUnsafe, match="not a directory"):
        Layout(tmp_path / "state")


@pytest.mark.parametrize("kind", sorted(file_systems.NETWORK))
def test_a_root_on_a_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(file_systems, "_table", lambda: f"22 1 0:1 / / rw - {kind} far rw\n")
    monkeypatch.setattr(os, "major", lambda _: 0)
    with pytest.raises(StateUnsafe, match=kind):
        Layout(tmp_path / "state")


@pytest.mark.parametrize("name", [".owners", ".trash"])
@pytest.mark.parametrize("as_link", [False, True])
def test_what_stands_in_the_way_inside_is_refused(tmp_path: Path, name: str, as_link: bool) -> None:  # noqa: FBT001
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "elsewhere").mkdir()
    if as_link:
        (tmp_path / "state" / name).symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / "state" / name).write_text("")
    with pytest.raises(StateUnsafe, match=name):
        Layout(tmp_path / "state")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StateFull),
        (errno.EDQUOT, StateFull),
        (errno.EACCES, PermissionDenied),
        (errno.EPERM, PermissionDenied),
        (errno.EROFS, PermissionDenied),
    ],
)
def test_what_the_system_refuses_has_a_code(number: int, kind: type[SupervisorError]) -> None:
    told = state_error(OSError(number, os.strerror(number), "/some/where"), "cannot do it")
    assert type(told) is kind
    assert told.message == f"cannot do it: {os.strerror(number)} (/some/where)"


@pytest.mark.parametrize(("number", "retryable"), [(errno.EMFILE, True), (errno.EIO, True), (errno.ENOTDIR, False)])
def test_other_refusals_may_pass(number: int, retryable: bool) -> None:  # noqa: FBT001
    assert state_error(OSError(number, "x"), "y").retryable is retryable


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("0" * 32, True),
        ("0123456789abcdef" * 2, True),
        ("0" * 31, False),
        ("0" * 33, False),
        ("A" * 32, False),
        ("g" * 32, False),
        ("0" * 32 + "\n", False),
        ("٣" * 32, False),
        ("../" + "0" * 29, False),
        ("", False),
    ],
)
def test_job_ids(text: str, is_one: bool) -> None:  # noqa: FBT001
    assert is_job_id(text) is is_one


def test_new_ids_are_ids_and_new() -> None:
    made = {new_job_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(map(is_job_id, made))


@pytest.mark.parametrize(
    ("path", "slug"),
    [
        ("/home/me/repo", "repo"),
        ("/", "root"),
        ("/tmp/..hidden..", "hidden"),
        ("/tmp/a b/ü$c", "c"),
        ("/tmp/💥", "root"),
        ("/tmp/" + "x" * 200, "x" * 28),
    ],
)
def test_workspace_keys_are_readable_and_known_again(tmp_path: Path, path: str, slug: str) -> None:
    key = workspace_key(path)
    name, _, digest = key.rpartition("-")
    assert name == slug
    assert len(digest) == 12
    root = Layout(tmp_path / "state")
    root.make_job(key, new_job_id(), b"")
    assert root.workspaces() == [key]


def test_workspaces_of_one_name_have_keys_of_their_own() -> None:
    assert len({workspace_key(path) for path in ("/a/repo", "/b/repo", "/c/repo")}) == 3
    assert workspace_key(os.fsdecode(b"/a/\xff")) != workspace_key(os.fsdecode(b"/a/\xfe"))


# ---------------------------------------------------------------- jobs


def test_jobs_are_found_and_nothing_else(tmp_path: Path) -> None:
    root = Layout(tmp_path / "state")
    ids = {new_job_id() for _ in range(3)}
    for job_id in ids:
        root.make_job(KEY, job_id, b"{}")
    (tmp_path / "state" / KEY / "README").write_text("")
    (tmp_path / "state" / KEY / ("f" * 32)).write_text("a file")
    (tmp_path / "state" / "notes").mkdir()
    assert set(root.jobs()) == {(KEY, job_id) for job_id in ids}
    assert {root.find(job_id) for job_id in ids} == {KEY}
    assert root.find("f" * 32) is None
    assert root.find(new_job_id()) is None


def test_a_job_behind_a_link_is_never_followed(tmp_path: Path) -> None:
    root = Layout(tmp_path / "state")
    other = Layout(tmp_path / "other")
    inside, outside = new_job_id(), new_job_id()
    root.make_job(KEY, inside, b"{}")
    other.make_job(KEY, outside, b"{}")
    (tmp_path / "state" / KEY / outside).symlink_to(tmp_path / "other" / KEY / outside)
    (tmp_path / "state" / "link-0123456789ab").symlink_to(tmp_path / "other" / KEY)
    assert not root.is_sound(KEY, outside)
    assert not root.is_sound("link-0123456789ab", outside)
    assert root.find(outside) is None
    assert list(root.jobs()) == [(KEY, inside)]


def test_a_job_of_somebody_else_is_not_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Layout(tmp_path / "state")
    job_id = new_job_id()
    root.make_job(KEY, job_id, b"{}")
    assert root.is_sound(KEY, job_id)
    stranger = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    assert not root.is_sound(KEY, job_id)


def test_a_job_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Layout(tmp_path / "state")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StateFull):
            root.make_job(KEY, new_job_id(), b"{}")
    assert list(root.jobs()) == []
    assert list((tmp_path / "state" / KEY).iterdir()) == []


def test_a_workspace_directory_that_was_removed_is_made_again(tmp_path: Path) -> None:
    root = Layout(tmp_path / "state")
    first = root.make_job(KEY, new_job_id(), b"{}")
    os.unlink(f"{first}/job.json")
    os.rmdir(first)
    (tmp_path / "state" / KEY).rmdir()
    second = new_job_id()
    root.make_job(KEY, second, b"{}")
    assert list(root.jobs()) == [(KEY, second)]


def test_a_long_record_is_written_whole(tmp_path: Path) -> None:
    record = b"x" * 3_000_000
    directory = Layout(tmp_path / "state").make_job(KEY, new_job_id(), record)
    assert Path(directory, "job.json").read_bytes() == record


def test_one_of_many_discards_a_job(tmp_path: Path) -> None:
    root = Layout(tmp_path / "state")
    job_id = new_job_id()
    root.make_job(KEY, job_id, b"{}")
    told: list[bool] = []
    together = threading.Barrier(8)

    def discard() -> None:
        together.wait()
        told.append(root.discard(KEY, job_id))

    threads = [threading.Thread(target=discard) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [False] * 7 + [True]
    assert root.find(job_id) is None


def test_the_trash_is_emptied_in_portions(tmp_path: Path) -> None:
    root = Layout(tmp_path / "state")
    for _ in range(5):
        job_id = new_job_id()
        Path(root.make_job(KEY, job_id, b"{}"), "result.json").write_text("output")
        assert root.discard(KEY, job_id)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    (tmp_path / "state" / ".trash" / "link").symlink_to(outside)
    assert [root.empty_trash(2) for _ in range(3)] == [True, True, False]
    assert list((tmp_path / "state" / ".trash").iterdir()) == []
    assert (outside / "kept").exists()


# ---------------------------------------------------------------- owners


def test_an_owner_lives_until_it_says_otherwise(tmp_path: Path) -> None:
    root = Layout(tmp_path / "state")
    owner = root.owners.register()
    assert root.owners.is_alive(owner)
    assert owner != root.owners.register()
    root.owners.sweep()
    assert root.owners.is_alive(owner)
    root.owners.unregister(owner)
    assert not root.owners.is_alive(owner)


def test_an_owner_that_died_does_not_live(tmp_path: Path) -> None:
    root = Layout(tmp_path / "state")
    with subprocess.Popen(["sleep", "600"]) as other:
        found = processes.read_process(other.pid)
        assert found is not None
        start = found.start
        tail = f"{processes.boot_id()[:12]}.{processes.pid_namespace()}.00000000"
        alive, recycled = f"{other.pid}.{start}.{tail}", f"{other.pid}.{start + 1}.{tail}"
        for name in (alive, recycled):
            (tmp_path / "state" / ".owners" / name).touch()
        assert root.owners.is_alive(alive)
        assert not root.owners.is_alive(recycled)
        other.kill()
        other.wait()
        assert not root.owners.is_alive(alive)
    root.owners.sweep()
    assert list((tmp_path / "state" / ".owners").iterdir()) == []


@pytest.mark.parametrize("part", [2, 3])
def test_owners_of_another_boot_or_namespace_are_not_judged_by_their_pid(tmp_path: Path, part: int) -> None:
    root = Layout(tmp_path / "state")
    words = root.owners.register().split(".")
    words[part] = "f" * len(words[part])
    name = ".".join(words)
    path = tmp_path / "state" / ".owners" / name
    path.touch()
    assert not root.owners.is_alive(name)
    root.owners.sweep()
    assert path.exists() is (part == 3)  # in another namespace it may well live


@pytest.mark.parametrize("name", ["", "x", "1.2.3.4.5", "a.b.c.d.e", "../../etc/passwd", ".".join("1" * 5)])
def test_what_is_no_owner_does_not_live(tmp_path: Path, name: str) -> None:
    assert not Layout(tmp_path / "state").owners.is_alive(name)


def test_the_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    inside = most = 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        mine = Layout(tmp_path / "state")
        for _ in range(20):
            with mine.locked():
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    Layout(tmp_path / "state")
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside) == (1, 0)


def test_the_lock_is_not_followed_through_a_link(tmp_path: Path) -> None:
    root = Layout(tmp_path / "state")
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "state" / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SupervisorError, match="lock"), root.locked():
        pytest.fail("locked")


def test_what_is_known_to_be_sound_is_so_until_a_name_comes_or_goes(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "state")
    one, other = new_job_id(), new_job_id()
    key = workspace_key("/work")
    above = Path(layout.make_job(key, one, b"{}")).parent

    def look() -> list[bool]:
        while not file_systems.has_settled(above.stat()):
            time.sleep(0.02)
        is_sound = layout.soundness()
        return [is_sound(key, job_id) for job_id in (one, other)]

    for _ in range(2):
        assert look() == [True, False]
    assert layout._sound[key][1] == {one}
    directory = Path(layout.make_job(key, other, b"{}"))
    assert look() == [True, True]
    aside = directory.rename(tmp_path / "aside")
    assert look() == [True, False]
    directory.symlink_to(aside)
    assert look() == [True, False]
    assert layout.discard(key, one)
    assert look() == [False, False]
    above.rename(tmp_path / "moved")
    above.symlink_to(tmp_path / "moved")
    (tmp_path / "moved" / one).mkdir(mode=0o700)
    assert look() == [False, False]


def test_what_changes_too_fast_for_its_clock_is_looked_at_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_systems, "_SETTLED_NS", 1 << 62)
    layout = Layout(tmp_path / "state")
    one, key = new_job_id(), workspace_key("/work")
    layout.make_job(key, one, b"{}")
    assert layout.soundness()(key, one)
    assert not layout._sound


def test_the_locks_of_containers_that_are_gone_are_swept(tmp_path: Path) -> None:
    root = Layout(tmp_path / "state")
    mine, gone, busy = lock_name(), "queue.4026000001.lock", "queue.4026000002.lock"
    for name in (mine, gone):
        descriptor = take_lock(f"{root.root}/{name}")
        assert descriptor is not None
        os.close(descriptor)
    held = take_lock(f"{root.root}/{busy}")
    assert held is not None
    root.owners.sweep()
    assert sorted(name for name in os.listdir(root.root) if name.startswith("queue.")) == sorted([mine, busy])
    os.close(held)
