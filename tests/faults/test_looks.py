"""An error while looking is not evidence: each call that looks at a job fails, with each error, once and for good.

Whatever fails, a job is told as it was known or with an error that can be retried, its records stay as they are, and
as soon as nothing fails any more the truth is told.
"""

from __future__ import annotations

import ast
import errno
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import supervisor
from supervisor.engines.local import liveness_cache
from supervisor.errors import JobRunning, SupervisorError
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.settings import Settings
from supervisor.store import Row
from supervisor.system import processes
from tests.store.test_index import make

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs /proc")

Site = tuple[str, str, str]

CALLS = frozenset(
    {"access", "fstat", "getsid", "kill", "listdir", "lstat", "open", "pidfd_open", "pread", "read", "readlink"}
    | {"scandir", "stat", "waitid", "exists", "isdir", "isfile", "islink", "lexists"}
)
ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EINTR)
NOT_EVIDENCE = {
    "runtime.janitor": "how long the registry's log is",
    "cli": "asks about the caller's surroundings, and settles nothing",
    "embedding": "talks to its own thread",
    "jobs.bulk": "looks through `observing`",
    "engines.cluster": "clusters have rules of their own about nodes that cannot be reached",
    **dict.fromkeys(
        (
            "engines.local.keeper_client",
            "keeper.channels",
            "keeper.job_cgroups",
            "keeper.launches",
            "keeper.loop",
            "keeper.output_limit",
            "keeper.protocol",
            "keeper.single_job",
            "keeper.spawn",
            "keeper.terminals",
            "keeper.turns",
            "keeper.unwritten",
        ),
        "a keeper knows how its children end from the kernel; tests/process/test_keeper_alone.py",
    ),
    "engines.staging": "puts the files of a job and of the keeper in place",
    "engines.interpreter": "which Python runs a keeper; the launch says what is wrong",
    "system.inotify": "tells that something has changed, not what",
    "engines.local.input_client": "connects to a keeper; an error settles nothing",
    "system.cgroups": "tests/system/test_cgroups.py",
    "engines.local.launching": "opens the workspace for a launch",
    "keeper.helper_starts": "tests/keeper/test_helper_starts.py",
    "keeper.registration": "tests/keeper/test_registration.py",
    "jobdir.measures": "tests/keeper/test_output_limit.py",
    "runtime.follow": "reads for a person what is written; no verdict rests on it",
    "system.fork_safety": "none",
    "interpret.claude_cli": "which program is installed",
    "interpret.codex_cli": "which program is installed",
    "runtime.launcher": "none",
    "load": "the load generator",
    "log": "none",
    "http": "tokens and sockets; tests/mcp_server",
    "mcp_server": "kinds and workspaces; tests/mcp_server",
    "system.git_view": "a repository that cannot be read is an error; tests/mcp_server/test_review_hostile.py",
    "system.file_systems": "what is mounted; a root that cannot be judged is refused",
    "settings": "none",
    "store.groups": "tests/store/test_groups.py",
    "store.pauses": "tests/store/test_pauses.py",
    "store.clock": "tests/store/test_clock.py",
    "store.owners": "tests/store/test_state_root.py",
    "store.sqlite": "tests/store/test_registry_errors.py",
    "store.state_root": "through `observing`; tests/store/test_registry_errors.py has the rest",
    "testing": "for tests",
    "system.trust": "who may replace a state root; one that cannot be judged is refused",
    "runtime.workspaces": "where a new job is to run",
}
"""Modules (and what is below them) whose looks decide nothing about a job's fate, or are tested elsewhere, and why."""
SINGLE: dict[Site, str] = {
    ("jobs.watching", "_drain", "read"): "of its own pipe, which only wakes it",
    ("jobs.watching", "_identity", "stat"): "of the state root: it opens that again; tests/cli/top/test_source.py",
    ("web.page.sessions", "_add", "open"): "writes",
    ("web.page.sessions", "_make_room", "listdir"): "of sessions of browsers; an error fails the login",
    ("jobs.deliveries", "_secret_file", "open"): "raises, unless there is none",
    ("system.installation", "_identity", "stat"): "of the package; with an error it counts as unchanged",
    ("store.grants", "_make", "open"): "writes",
    ("store.outbox", "_names", "listdir"): "raises, unless there are none",
    ("store.outbox", "_write", "open"): "writes",
    ("store.outbox", "add", "open"): "writes",
    ("store.outbox", "scan", "scandir"): "raises, unless there are none",
    ("store.outbox", "stamp", "stat"): "raises, unless there are none",
    ("store.ledger", "append", "open"): "writes",
    ("store.ledger", "_add", "fstat"): "of an open descriptor; raises, and all is read again",
    ("store.turns", "_note_awaited", "open"): "writes",
    ("jobs.schedules", "add_schedule", "isdir"): "refuses the schedule",
    ("store.named_files", "replace_file", "open"): "writes",
    ("store.named_files", "load_all", "listdir"): "raises, unless there are none",
    ("store.schedule_files", "_inputs", "listdir"): "raises, and the schedule stays as it is",
    ("system.observing", "is_absent", "islink"): "only after ELOOP, and says no when it cannot be told",
    ("system.observing", "is_absent", "stat"): "only after ENOTDIR; tests/jobdir/test_records.py",
    ("jobs.worktrees", "_is_in", "readlink"): "any other error than these says that the worktree is in use",
    ("worktrees.changes", "_has_bytes", "lstat"): "raises: the worktree stays",
    ("worktrees.record", "_is_file", "fstat"): "of an open descriptor",
    ("worktrees.record", "_is_file", "stat"): "raises, unless the lock was deleted",
    ("worktrees.record", "_open_locked", "open"): "for a lock; a failure is raised before anything is done",
    ("worktrees.record", "worktree_ids", "listdir"): "raises, unless there are none",
    ("worktrees.registering", "_clear", "listdir"): "raises, unless there are none",
    ("worktrees.registering", "registering", "open"): "for a lock; a failure is raised before anything is done",
    ("store.subscriptions", "locked", "open"): "for a lock; a failure is raised before anything is done",
    ("store.subscriptions", "scan", "scandir"): "raises, unless there are none",
    ("system.syncing", "sync_directory", "open"): "raises; tests/power/test_failing_disks.py",
    ("system.syncing", "sync_file", "fstat"): "of an open descriptor",
    ("system.syncing", "sync_file", "open"): "raises, unless there is none",
    ("store.order_files", "_holder", "readlink"): "without it a keeper lets go of orders a little later",
    ("system.observing", "find", "stat"): "orders in memory; tests/process/test_spool.py",
    ("engines.obstacles", "_children_of", "listdir"): "without it a message names the keeper instead",
    ("engines.obstacles", "_owner_of", "stat"): "names the owner in a message",
    ("system.processes", "_have_proc", "stat"): "at import: what cannot be seen is taken for there",
    ("system.processes", "has_child_ended", "waitid"): "of the keeper's own children",
    ("system.processes", "list_by_ps", "getsid"): "without /proc; tests/system/test_ps.py",
    ("system.processes", "may_have_children", "listdir"): "answers yes when it cannot be told",
    ("system.processes", "send_signal", "kill"): "a signal, not a look",
    ("system.processes", "send_signal", "pidfd_open"): "without one the identity is read again",
    ("jobdir.records", "_write_in_spare", "listdir"): "spare files: without one a new file is made",
    ("jobdir.records", "_write_in_spare", "open"): "writes",
    ("jobdir.records", "_write_whole", "open"): "writes",
    ("jobdir.records", "make_spares", "listdir"): "spare files",
    ("engines.local.pausing", "_alone", "open"): "for a lock; a failure is raised before anything is done",
    ("engines.local.pidfds", "of_launched", "getsid"): "without a pidfd the identity is read again",
    ("engines.local.pidfds", "of_launched", "pidfd_open"): "without a pidfd the identity is read again",
    ("engines.local.liveness_cache", "is_unended", "lstat"): "answers that it must be looked at",
    (
        "engines.local.adopted",
        "_keeper_of",
        "lstat",
    ): "hands over to who looks until it is known; tests/engines/local/test_adopted.py",
    (
        "engines.local.reconcile",
        "_is_untouched",
        "listdir",
    ): "then each record is looked for; tests/engines/local/test_reconcile.py",
    ("keeper.tree_killer", "_terminate", "kill"): "a signal, not a look",
    ("system.scopes", "_is_delegated", "access"): "then it asks for a scope, which is refused or as good",
    ("system.scopes", "_lingers", "exists"): "without a scope a keeper stays where it is",
    ("system.scopes", "_manager_of", "exists"): "as above",
    ("system.scopes", "_manager_of", "isdir"): "as above",
    ("system.scopes", "own_group", "exists"): "as above",
    ("keeper.resource_limits", "__init__", "open"): "without it a job is as likely to be ended as its keeper",
    ("keeper.resource_limits", "__init__", "pread"): "as above",
    ("system.process_table", "is_of_another_user", "stat"): "only for what was refused",
}


def sites_in_package() -> set[Site]:
    """Return (module, function, call) of every call in the package that looks at something."""
    root = Path(supervisor.__file__).parent
    found: set[Site] = set()
    for path in root.rglob("*.py"):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")

        def visit(node: ast.AST, function: str, module: str = module) -> None:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                function = node.name
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLS:
                of = node.func.value
                if ast.unparse(of) in {"os", "os.path"}:
                    found.add((module, function, node.func.attr))
            for child in ast.iter_child_nodes(node):
                visit(child, function)

        visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def is_elsewhere(site: Site) -> bool:
    module = site[0]
    return any(module == part or module.startswith((f"{part}.", f"{part}_")) for part in NOT_EVIDENCE)


class Shim:
    """Stands before ``os``: notes which site of the package calls what, and has one of them fail."""

    def __init__(self) -> None:
        self.seen: Counter[Site] = Counter()
        self.fails: Site | None = None
        self.error = 0
        self.left = 0
        self.skipped = 0

    def arm(self, site: Site, number: int, times: int, skipped: int = 0) -> None:
        """Have a call fail so many times, once it has succeeded so many times."""
        self.fails, self.error, self.left, self.skipped = site, number, times, skipped

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            frame = sys._getframe(1)
            module = str(frame.f_globals.get("__name__", ""))
            if module.startswith("supervisor."):
                site = (module.removeprefix("supervisor."), frame.f_code.co_name, name)
                self.seen[site] += 1
                if site == self.fails and self.skipped:
                    self.skipped -= 1
                elif site == self.fails and self.left:
                    self.left -= 1
                    raise OSError(self.error, os.strerror(self.error), args[0] if args else None)
            return call(*args, **named)

        return wrapped


@pytest.fixture
def shim(monkeypatch: pytest.MonkeyPatch) -> Shim:
    made = Shim()
    for name in sorted(CALLS):
        if hasattr(os, name):
            monkeypatch.setattr(os, name, made.wrap(name, getattr(os, name)))
    return made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "state")
    yield made
    made.close()


class World:
    """Jobs in every state that has to be told by looking."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings(state_dir=root)
        self.children: list[subprocess.Popen[bytes]] = []
        self.keeper = self.spawn("sleep", "600")
        self.stranger = self.spawn("true")
        os.waitid(os.P_PID, self.stranger[0], os.WEXITED)
        self.catalog = Catalog(self.settings)

    def spawn(self, *argv: str, **env: str) -> tuple[int, int]:
        child = subprocess.Popen(argv, env={**os.environ, **env}, start_new_session=True)
        self.children.append(child)
        found = processes.read_process(child.pid)
        return child.pid, 0 if found is None else found.start

    def close(self) -> None:
        self.catalog.close()
        for child in self.children:
            child.kill()
            child.wait()

    def job(self, leader: tuple[int, int], keeper: tuple[int, int], **changes: Any) -> Row:
        row = make(self.catalog)
        record: dict[str, Any] = {"pid": leader[0], "start": leader[1], "boot": processes.boot_id()}
        record |= {"ns": processes.pid_namespace(), "keeper_pid": keeper[0], "keeper_start": keeper[1]}
        record |= {"started_ns": row.created_ns, "started_boot_ns": processes.ticks_to_ns(leader[1])}
        records.replace(self.catalog.directory(row), records.PROCESS, {**record, **changes})
        return row

    def kept(self) -> tuple[Row, str, int | None]:
        return self.job(self.spawn("sleep", "600"), self.keeper), "running", None

    def unkept(self) -> tuple[Row, str, int | None]:
        return self.job(self.spawn("sleep", "600"), self.stranger), "running", None

    def of_another_name_of_this_boot(self) -> tuple[Row, str, int | None]:
        row = self.job(self.keeper, self.stranger, boot="v" + "0" * 31)
        leader = self.spawn("sleep", "600", SUPERVISOR_JOB_ID=row.job_id)
        record = records.read(self.catalog.directory(row), records.PROCESS) or {}
        del record["v"]
        record |= {"pid": leader[0], "start": leader[1], "started_boot_ns": processes.ticks_to_ns(leader[1])}
        records.replace(self.catalog.directory(row), records.PROCESS, record)
        return row, "running", None

    def ended_unreaped(self) -> tuple[Row, str, int | None]:
        leader = self.spawn("sh", "-c", "exit 5")
        os.waitid(os.P_PID, leader[0], os.WEXITED | os.WNOWAIT)
        return self.job(leader, self.stranger), "failed", 5

    def ended_on_record(self) -> tuple[Row, str, int | None]:
        row = self.job(self.stranger, self.keeper)
        directory = self.catalog.directory(row)
        Path(directory, records.STDOUT).write_text("out")
        Path(directory, records.STDERR).write_text("why")
        end: dict[str, object] = {"pid": self.stranger[0], "start": self.stranger[1], "boot": processes.boot_id()}
        records.create(directory, records.EXIT, end | {"exit_code": 3, "signal": None, "ended_ns": row.created_ns + 1})
        return row, "failed", 3

    def without_directory(self) -> tuple[Row, str, int | None]:
        row = make(self.catalog)
        self.spawn("sleep", "600", SUPERVISOR_JOB_ID=row.job_id)
        shutil.rmtree(self.catalog.directory(row))
        return row, "running", None


STATES = ("kept", "unkept", "of_another_name_of_this_boot", "ended_unreaped", "ended_on_record", "without_directory")


def ask(world: World, row: Row, arm: Callable[[], None] = lambda: None) -> set[tuple[str, int | None]]:
    """Ask about a job in every way, in a process that knows nothing; return what was told."""
    liveness_cache._known.clear()
    told: set[tuple[str, int | None]] = set()
    with Catalog(world.settings) as catalog:
        processes.forget_facts()
        arm()
        for question in (
            lambda: catalog.status(row.job_id),
            lambda: catalog.list().jobs[0],
            lambda: catalog.result(row.job_id).job,
        ):
            try:
                job = question()
                told.add((str(job.status), job.exit_code))
            except JobRunning:
                told.add(("running", None))
            except SupervisorError as error:
                assert error.retryable, error  # noqa: PT017
    return told


def asked(world: World, shim: Shim, state: str) -> tuple[Row, str, int | None, set[Site]]:
    """Ask about a job in a state; return the job, what is to be told of it, and the calls that looked."""
    row, status, code = getattr(world, state)()
    shim.seen.clear()
    assert ask(world, row) == {(status, code)}
    sites = {site for site in shim.seen if not is_elsewhere(site) and site not in SINGLE}
    assert sites
    return row, status, code, sites


@pytest.mark.parametrize("state", STATES)
def test_an_error_at_any_look_settles_nothing(world: World, shim: Shim, state: str) -> None:
    row, status, code, sites = asked(world, shim, state)
    cases = 0
    for site in sorted(sites):
        for number in ERRORS:
            for times in (1, 1 << 30):
                row, status, code = (row, status, code) if status == "running" else getattr(world, state)()
                end = Path(world.catalog.directory(row), records.EXIT)
                before = end.read_bytes() if end.exists() else None
                try:
                    told = ask(world, row, lambda case=(site, number, times): shim.arm(*case))  # type: ignore[misc]
                finally:
                    shim.fails = None
                case = (site, errno.errorcode[number], times)
                assert told <= {("running", None), (status, code)}, case
                if before is not None or status == "running":
                    assert (end.read_bytes() if end.exists() else None) == before, case
                assert ask(world, row) == {(status, code)}, case
                cases += 1
    assert cases == 2 * len(sites) * len(ERRORS)


def test_every_call_that_looks_has_a_case(world: World, shim: Shim) -> None:
    """A new one is tried above by being on the way of a question, or is listed here with a reason."""
    there = {site for site in sites_in_package() if not is_elsewhere(site)}
    covered = {site for state in STATES for site in asked(world, shim, state)[-1]}
    uncovered = there - covered - SINGLE.keys()
    assert not uncovered, "\n".join(map(str, sorted(uncovered)))
    assert SINGLE.keys() <= there, sorted(SINGLE.keys() - there)
