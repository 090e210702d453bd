"""The checks of this machine: versions, the state root, the settings, the kernel, limits and programs."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterator
from typing import Any, Final

from supervisor._version import __version__
from supervisor.cli import text
from supervisor.cli.doctor.check import Check, Verdict
from supervisor.errors import InvalidArguments, SupervisorError
from supervisor.settings import Settings
from supervisor.system import processes
from supervisor.system.inotify import Inotify

__all__ = [
    "check_configuration",
    "check_keeper",
    "check_kernel",
    "check_limits",
    "check_programs",
    "check_registry",
    "check_state_root",
    "check_versions",
]

_LITTLE_SPACE: Final = 1 << 30
_NO_SPACE: Final = 1 << 24
_FEW_DESCRIPTORS: Final = 256


def check_versions() -> Iterator[Check]:
    """Report the versions of Python, of this package and of what it imports."""
    from importlib.metadata import PackageNotFoundError, version

    python = platform.python_version()
    facts: dict[str, Any] = {"supervisor": __version__, "python": python, "executable": sys.executable}
    yield Check("supervisor", Verdict.NOTE, f"{__version__}, Python {python} ({sys.executable})", facts=facts)
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Check("platform", Verdict.NOTE, system, facts={"system": platform.system(), "release": platform.release()})
    found: dict[str, str | None] = {"sqlite": sqlite3.sqlite_version}
    for name in ("trio", "attrs", "cattrs", "click", "structlog", "rich", "mcp", "hypercorn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    missing = [name for name, held in found.items() if held is None]
    needed = [name for name in missing if name not in {"mcp", "hypercorn"}]
    words = ", ".join(f"{name} {held}" for name, held in found.items() if held is not None)
    if needed:
        repair = "Install trio-supervisor again, with its dependencies."
        yield Check("libraries", Verdict.PROBLEM, f"missing: {', '.join(needed)}", repair, found)
    else:
        extra = "; not installed, and only needed for MCP: " + ", ".join(missing) if missing else ""
        yield Check("libraries", Verdict.FINE, words + extra, facts=found)


# ------------------------------------------------------------ where jobs are kept


def check_state_root(settings: Settings) -> Iterator[Check]:
    """Check that the state root is private, writable, local and has room."""
    root = os.path.realpath(settings.state_dir)
    facts: dict[str, Any] = {"path": root, "exists": os.path.lexists(root)}
    above = root
    while not os.path.exists(above):
        above = os.path.dirname(above)
    free = shutil.disk_usage(above).free
    facts |= {"free_bytes": free}
    if above != root:
        from supervisor.store.state_root import unsafe_place

        unsafe = unsafe_place(os.fspath(settings.state_dir))
        if unsafe is not None:
            yield Check("state root", Verdict.PROBLEM, unsafe.message, unsafe.repair, facts)
        elif os.path.isdir(above) and os.access(above, os.W_OK | os.X_OK):
            yield Check("state root", Verdict.FINE, f"{root} (will be made by the first job)", facts=facts)
        else:
            repair = "Choose another directory with SUPERVISOR_STATE_DIR."
            yield Check("state root", Verdict.PROBLEM, f"{root} cannot be made in {above}", repair, facts)
    else:
        from supervisor.store import Layout

        try:
            Layout(settings.state_dir, create=False)
        except SupervisorError as error:
            yield Check("state root", Verdict.PROBLEM, error.message, error.repair, facts)
        else:
            mode = stat.S_IMODE(os.stat(root).st_mode)
            facts |= {"mode": f"{mode:04o}"}
            if os.access(root, os.W_OK | os.X_OK | os.R_OK):
                yield Check("state root", Verdict.FINE, f"{root}, private ({mode:04o})", facts=facts)
            else:
                repair = f"If nobody tampered with it: chmod 700 {root}"
                yield Check("state root", Verdict.PROBLEM, f"{root} cannot be written", repair, facts)
    left = f"{text.size(free)} free"
    if free < _LITTLE_SPACE:
        verdict = Verdict.PROBLEM if free < _NO_SPACE else Verdict.WARNING
        yield Check("disk", verdict, left, "Make room: a job whose output cannot be written fails.", facts)
    else:
        yield Check("disk", Verdict.FINE, left, facts={"free_bytes": free})


def check_registry(settings: Settings) -> Iterator[Check]:
    """Check that the index of the state root can be read."""
    if not os.path.exists(f"{os.path.realpath(settings.state_dir)}/registry.db"):
        yield Check("registry", Verdict.NOTE, "there is none yet")
        return
    from supervisor.jobs.catalog import Catalog

    try:
        with Catalog(settings, create=False) as catalog:
            kept = catalog.index.count()
            unsettled = catalog.index.unfinished()
            aside = catalog.index.set_aside
            states: list[str] = []
            for row in unsettled:
                settled, seen = catalog.settled(row, drive=False)
                states.append(settled.state if settled.finished or seen is None else seen.seen.value)
    except SupervisorError as error:
        yield Check("registry", Verdict.PROBLEM, error.message, error.repair)
        return
    if aside is None:
        yield Check("registry", Verdict.FINE, f"{text.plural(kept, 'job')} kept", facts={"jobs": kept})
    else:
        message = f"was damaged, and was rebuilt just now with {text.plural(kept, 'job')}; the old one is {aside}"
        yield Check("registry", Verdict.WARNING, message, facts={"jobs": kept, "set_aside": aside})
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    live = sum(count for state, count in counts.items() if state in {"running", "queued", "elsewhere"})
    words = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"
    facts: dict[str, Any] = {"unsettled": len(unsettled), "now": counts}
    if len(unsettled) > live:
        words += f" ({text.plural(len(unsettled) - live, 'job')} found ended, and settled)"
    yield Check("unsettled jobs", Verdict.FINE, words, facts=facts)


def check_configuration(settings: Settings) -> Iterator[Check]:
    """Check that the settings and the kinds file are valid."""
    names = ("job_max_seconds", "job_ttl", "job_max_count", "job_max_output_bytes", "stop_grace_seconds", "log")
    held = {name: getattr(settings, name) for name in names}
    changed = sorted(name for name in os.environ if name.startswith("SUPERVISOR_") and name != "SUPERVISOR_JOB_ID")
    where = f" (set: {', '.join(changed)})" if changed else " (defaults)"
    words = ", ".join(f"{name} {value}" for name, value in held.items())
    yield Check("settings", Verdict.NOTE, words + where, facts={key: str(value) for key, value in held.items()})
    if settings.config is not None:
        from supervisor.mcp_server.access.guarded import load_kinds  # as `mcp` does, so that both accept the same

        try:
            kinds = load_kinds(settings)
        except SupervisorError as error:
            yield Check("kinds file", Verdict.PROBLEM, error.message, error.repair)
        else:
            words = ", ".join(each.name for each in kinds) or "no kinds"
            yield Check("kinds file", Verdict.FINE, f"{settings.config}: {words}")
    if "SUPERVISOR_JOB_ID" in os.environ:
        message = (
            f"we are inside job {os.environ['SUPERVISOR_JOB_ID']}: jobs started here are its children in name only"
        )
        yield Check("nested", Verdict.NOTE, message)


# ------------------------------------------------------------ what the system can do


def check_kernel() -> Iterator[Check]:
    """Check what the kernel offers to identify and to watch processes."""
    _, start = processes.own_identity()
    if start and processes.boot_id():
        facts = {"boot_id": processes.boot_id(), "pid_namespace": processes.pid_namespace()}
        yield Check("process identity", Verdict.FINE, "pids can be told apart by start time and boot", facts=facts)
    else:
        repair = "Mount /proc as usual (proc(5))."
        yield Check("process identity", Verdict.PROBLEM, "a process cannot be told from a later one", repair)
    if not sys.platform.startswith("linux"):
        yield Check("pidfd, inotify", Verdict.NOTE, "only Linux has them; intervals and ps(1) serve instead")
        return
    yield _pidfd()
    watcher = Inotify.open()
    if watcher is None:
        message = "not to be had (fs.inotify.max_user_instances?): jobs of others are looked at at intervals"
        yield Check("inotify", Verdict.WARNING, message, facts={"inotify": False})
    else:
        watcher.close()
        yield Check("inotify", Verdict.FINE, "changes to jobs of others are noticed at once", facts={"inotify": True})


def check_keeper(settings: Settings) -> Iterator[Check]:
    """Name what runs the keeper, and have it say its version."""
    import subprocess

    from supervisor.engines.interpreter import find_python

    try:
        python = find_python(settings.python)
    except SupervisorError as error:
        yield Check("keeper", Verdict.PROBLEM, error.message, error.repair)
        return
    repair = "Name a Python 3.11 or newer by SUPERVISOR_PYTHON."
    program = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", program], capture_output=True, text=True, check=False, timeout=20, cwd="/"
        )
        version = tuple(map(int, done.stdout.split()))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        yield Check("keeper", Verdict.PROBLEM, f"{python} does not run: {error}", repair, {"python": python})
        return
    shown = ".".join(map(str, version))
    facts = {"python": python, "version": shown}
    if done.returncode or version < (3, 11):
        said = f"Python {shown}" if version else done.stderr.strip().rpartition("\n")[2]
        yield Check("keeper", Verdict.PROBLEM, f"{python} cannot run it: {said}", repair, facts)
    else:
        yield Check("keeper", Verdict.FINE, f"run by {python} (Python {shown})", facts=facts)


def _pidfd() -> Check:
    """Let a child end, and see what can still be told about it."""
    silent = [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]  # a shell remarks on a deleted directory
    child = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], {}, file_actions=silent)
    descriptor: int | None = None
    with contextlib.suppress(OSError):
        descriptor = os.pidfd_open(child)
    os.waitpid(child, 0)
    if descriptor is None:
        message = "not to be had: the end of adopted jobs is looked for at intervals"
        return Check("pidfd", Verdict.WARNING, message, facts={"pidfd": False, "get_info": False})
    status = processes.exit_status_of_pidfd(descriptor)
    os.close(descriptor)
    told = status is not None and os.waitstatus_to_exitcode(status) == 7
    how = "also of processes that are gone" if told else "but not of processes that are gone (Linux 6.15 or newer)"
    message = f"the end of a process is noticed at once, and its exit status told, {how}"
    return Check("pidfd", Verdict.FINE, message, facts={"pidfd": True, "get_info": told})


def check_limits() -> Iterator[Check]:
    """Check the resource limits that a supervisor with many jobs needs."""
    umask = os.umask(0o077)
    os.umask(umask)
    message = f"{umask:04o}, which jobs inherit; what is kept about them is private whatever it is"
    yield Check("umask", Verdict.NOTE, message, facts={"umask": f"{umask:04o}"})
    names = {"NOFILE": "open files", "NPROC": "processes", "FSIZE": "file size", "CPU": "CPU seconds", "AS": "memory"}
    facts: dict[str, Any] = {}
    words: list[str] = []
    for name, what in names.items():
        soft, hard = (
            None if limit == resource.RLIM_INFINITY else limit
            for limit in resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
        )
        facts[name.lower()] = {"soft": soft, "hard": hard}
        if soft is not None:
            words.append(f"{what} {soft}")
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = soft != resource.RLIM_INFINITY and soft < _FEW_DESCRIPTORS
    message = f"{', '.join(words) or 'none'}, which jobs inherit"
    repair = "Raise it with `ulimit -n`: a supervisor uses a quarter of it for its jobs." if few else None
    yield Check("limits", Verdict.WARNING if few else Verdict.FINE, message, repair, facts)


def check_programs() -> Iterator[Check]:
    """Report which agent programs are on PATH and which kinds are registered."""
    found = {name: shutil.which(name) for name in ("claude", "codex")}
    words = ", ".join(f"{name} {path or 'not on PATH'}" for name, path in found.items())
    yield Check("agent CLIs", Verdict.NOTE, words, facts=dict(found))
    yield _kinds()


def _kinds() -> Check:
    """Load every kind: one that somebody else brings may not be what it should be."""
    from supervisor.interpret import BUILT_IN, get_interpreter, kinds
    from supervisor.jobs.progress import reader_of

    names = kinds()
    broken: dict[str, str] = {}
    for name in names:
        try:
            get_interpreter(name)
        except InvalidArguments as error:
            broken[name] = error.message
    words = ", ".join(name for name in names if name not in broken)
    facts = {
        "kinds": list(names),
        "installed": [name for name in names if name not in BUILT_IN],
        "progress": [name for name in names if name not in broken and reader_of(name) is not None],
        "broken": broken,
    }
    if not broken:
        return Check("kinds", Verdict.FINE, words, facts=facts)
    message = f"{words}; {'; '.join(broken.values())}"
    return Check("kinds", Verdict.WARNING, message, "Correct or remove the distributions that bring them.", facts)
