"""The checks of ``doctor`` for versions, the state root, the settings, the kernel, limits and programs."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterator
from typing import Any, Final

import attrs
import click

from supervisor._version import __version__
from supervisor.cli import text
from supervisor.cli.doctor.check import Check, Severity
from supervisor.cli.supervisord import ADVICE, supervisord_version
from supervisor.errors import InvalidArguments, SupervisorError
from supervisor.settings import Settings, config_file, origins
from supervisor.system import pidfd, processes
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

_LOW_SPACE: Final = 1 << 30
_MIN_SPACE: Final = 1 << 24
_MIN_DESCRIPTORS: Final = 256

_EXTRAS: Final = {"mcp": "mcp", "hypercorn": "mcp", "textual": "top"}
"""Libraries that only an extra needs."""


def check_versions() -> Iterator[Check]:
    """Report the versions of Python, of this package and of what it imports."""
    from importlib.metadata import PackageNotFoundError, version

    python = platform.python_version()
    facts: dict[str, Any] = {"supervisor": __version__, "python": python, "executable": sys.executable}
    yield Check("supervisor", Severity.NOTE, f"{__version__}, Python {python} ({sys.executable})", facts=facts)
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Check("platform", Severity.NOTE, system, facts={"system": platform.system(), "release": platform.release()})
    found: dict[str, str | None] = {"sqlite": sqlite3.sqlite_version}
    for name in ("trio", "attrs", "cattrs", "click", "structlog", *_EXTRAS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    missing = [name for name, held in found.items() if held is None]
    needed = [name for name in missing if name not in _EXTRAS]
    words = ", ".join(f"{name} {held}" for name, held in found.items() if held is not None)
    if needed:
        repair = "Install trio-supervisor again, with its dependencies."
        yield Check("libraries", Severity.PROBLEM, f"missing: {', '.join(needed)}", repair, found)
    else:
        optional = ", ".join(f"{name} (extra {_EXTRAS[name]})" for name in missing)
        yield Check(
            "libraries", Severity.FINE, f"{words}; not installed: {optional}" if missing else words, facts=found
        )
    if (clash := supervisord_version()) is not None:
        message = f"supervisord {clash} is installed here, and its package has the same name"
        yield Check("supervisord", Severity.PROBLEM, message, ADVICE)


# ------------------------------------------------------------ the state root


def check_state_root(settings: Settings) -> Iterator[Check]:
    """Check that the state root is private and writable, and has free space."""
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
            yield Check("state root", Severity.PROBLEM, unsafe.message, unsafe.repair, facts)
        elif os.path.isdir(above) and os.access(above, os.W_OK | os.X_OK):
            yield Check("state root", Severity.FINE, f"{root} (the first job will create it)", facts=facts)
        else:
            repair = "Choose another directory with SUPERVISOR_STATE_DIR."
            yield Check("state root", Severity.PROBLEM, f"{root} cannot be created in {above}", repair, facts)
    else:
        from supervisor.store import Layout

        try:
            Layout(settings.state_dir, create=False)
        except SupervisorError as error:
            yield Check("state root", Severity.PROBLEM, error.message, error.repair, facts)
        else:
            mode = stat.S_IMODE(os.stat(root).st_mode)
            facts |= {"mode": f"{mode:04o}"}
            if os.access(root, os.W_OK | os.X_OK | os.R_OK):
                yield Check("state root", Severity.FINE, f"{root}, private ({mode:04o})", facts=facts)
            else:
                repair = f"If its contents are intact: chmod 700 {root}"
                yield Check("state root", Severity.PROBLEM, f"{root} cannot be written", repair, facts)
    left = f"{text.size(free)} free"
    if free < _LOW_SPACE:
        severity = Severity.PROBLEM if free < _MIN_SPACE else Severity.WARNING
        yield Check("disk", severity, left, "Free some space: a job whose output cannot be written fails.", facts)
    else:
        yield Check("disk", Severity.FINE, left, facts={"free_bytes": free})


def check_registry(settings: Settings) -> Iterator[Check]:
    """Check that the index of the state root can be read."""
    if not os.path.exists(f"{os.path.realpath(settings.state_dir)}/registry.db"):
        yield Check("registry", Severity.NOTE, "does not exist yet")
        return
    from supervisor.admission import launchers
    from supervisor.jobs import queue_text
    from supervisor.jobs.catalog import Catalog

    try:
        with Catalog(settings, create=False) as catalog:
            kept = catalog.index.count()
            unfinished = catalog.index.unfinished()
            unattended = launchers.unattended(catalog.index)
            unfired = launchers.unfired(catalog.index)
            aside = catalog.index.set_aside
            states: list[str] = []
            for row in unfinished:
                now, observation = catalog.refresh(row, drive=False)
                states.append(now.state if now.finished or observation is None else observation.phase.value)
    except SupervisorError as error:
        yield Check("registry", Severity.PROBLEM, error.message, error.repair)
        return
    if aside is None:
        yield Check("registry", Severity.FINE, f"{text.plural(kept, 'job')} kept", facts={"jobs": kept})
    else:
        message = f"was damaged, and was rebuilt just now with {text.plural(kept, 'job')}; the old file is {aside}"
        yield Check("registry", Severity.WARNING, message, facts={"jobs": kept, "set_aside": aside})
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    live = sum(count for state, count in counts.items() if state in {"running", "queued", "elsewhere"})
    words = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"
    facts: dict[str, Any] = {"unsettled": len(unfinished), "now": counts}
    if len(unfinished) > live:
        words += f" ({text.plural(len(unfinished) - live, 'job')} had ended; the index is updated)"
    yield Check("unsettled jobs", Severity.FINE, words, facts=facts)
    if unattended:
        words, facts = queue_text.unattended(unattended), {"waiting": unattended}
        yield Check("waiting jobs", Severity.WARNING, words, "Run `supervisor launch-waiting`.", facts)
    if unfired:
        words, facts = queue_text.unfired(unfired), {"schedules": unfired}
        repair = "Run `supervisor launch-waiting`, or install the service: `supervisor service install`."
        yield Check("schedules", Severity.WARNING, words, repair, facts)
    if (dead := text.dead_deliveries(os.path.realpath(settings.state_dir))) is not None:
        yield Check("deliveries", Severity.WARNING, dead, "Run `supervisor deliveries --dead`, then --retry or --rm.")


def check_configuration(settings: Settings) -> Iterator[Check]:
    """Check that the settings, the configuration file and the kinds file are valid."""
    given = Settings()  # without --state-dir
    held = {name: getattr(settings, name) for name in attrs.fields_dict(Settings)}
    shown = {
        field.name: held[field.name] if field.repr or not held[field.name] else "***"
        for field in attrs.fields(Settings)
    }
    origin = {name: where if held[name] == getattr(given, name) else "--state-dir" for name, where in origins().items()}
    words = [
        f"{name} {value}" + (f" ({origin[name]})" if origin[name] != "default" else "")
        for name, value in shown.items()
        if value not in {None, ""} and (name != "state_dir" or origin[name] != "default")
    ]
    facts = {**{name: str(value) for name, value in shown.items()}, "from": origin}
    yield Check("settings", Severity.NOTE, ", ".join(words), facts=facts)
    yield _configuration_file()
    if settings.config is not None:
        from supervisor.mcp_server.access.guarded import load_kinds  # as `mcp` does, so that both accept the same

        try:
            kinds = load_kinds(settings)
        except SupervisorError as error:
            yield Check("kinds file", Severity.PROBLEM, error.message, error.repair)
        else:
            names = ", ".join(each.name for each in kinds) or "no kinds"
            yield Check("kinds file", Severity.FINE, f"{settings.config}: {names}")
    if "SUPERVISOR_JOB_ID" in os.environ:
        message = f"running inside job {os.environ['SUPERVISOR_JOB_ID']}; jobs that are started here outlive it"
        yield Check("nested", Severity.NOTE, message)


def _configuration_file() -> Check:
    file = config_file.read()
    if file is None:
        where = config_file.place()
        return Check("configuration", Severity.NOTE, f"no file{f' ({where})' if where else ''}")
    from supervisor.cli import defaults

    try:
        options = defaults.check(file, click.get_current_context())
    except SupervisorError as error:
        return Check("configuration", Severity.PROBLEM, error.message, error.repair, {"file": file.path})
    words = f", defaults for {', '.join(options)}" if options else ""
    return Check("configuration", Severity.FINE, f"{file.path}{words}", facts={"file": file.path, "defaults": options})


# ------------------------------------------------------------ the system


def check_kernel() -> Iterator[Check]:
    """Check the kernel's means to identify and to watch processes."""
    _, start = processes.own_identity()
    if start and processes.boot_id():
        facts = {"boot_id": processes.boot_id(), "pid_namespace": processes.pid_namespace()}
        yield Check("process identity", Severity.FINE, "start time and boot id distinguish reused pids", facts=facts)
    else:
        repair = "Mount /proc as usual (proc(5))."
        yield Check("process identity", Severity.PROBLEM, "a reused pid cannot be recognised", repair)
    if not sys.platform.startswith("linux"):
        yield Check("pidfd, inotify", Severity.NOTE, "only Linux has them; polling and ps(1) are used instead")
        return
    yield _pidfd()
    watcher = Inotify.open()
    if watcher is None:
        message = "not available (fs.inotify.max_user_instances?): jobs of other processes are polled"
        yield Check("inotify", Severity.WARNING, message, facts={"inotify": False})
    else:
        watcher.close()
        message = "changes to jobs of other processes are noticed at once"
        yield Check("inotify", Severity.FINE, message, facts={"inotify": True})


# Prints the hard limit that is left of processor time, in seconds, once the keeper has raised it; -1 for none.
_CPU_LIMIT: Final = """
try:
    from resource import RLIMIT_CPU, RLIM_INFINITY, getrlimit, setrlimit
    setrlimit(RLIMIT_CPU, (RLIM_INFINITY, RLIM_INFINITY))
except (ImportError, OSError, ValueError):
    pass
try:
    hard = getrlimit(RLIMIT_CPU)[1]
    print(-1 if hard == RLIM_INFINITY else hard)
except NameError:
    print(-1)
"""


def check_keeper(settings: Settings) -> Iterator[Check]:
    """Check the interpreter that runs the keeper, and its version."""
    import subprocess

    from supervisor.engines.interpreter import find_python

    try:
        python = find_python(settings.python)
    except SupervisorError as error:
        yield Check("keeper", Severity.PROBLEM, error.message, error.repair)
        return
    repair = "Set SUPERVISOR_PYTHON to a Python 3.11 or newer."
    program = "import sys; print(*sys.version_info[:2])\n" + _CPU_LIMIT
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", program], capture_output=True, text=True, check=False, timeout=20, cwd="/"
        )
        *version, cpu_seconds = map(int, done.stdout.split() or ["-1"])
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        yield Check("keeper", Severity.PROBLEM, f"{python} does not run: {error}", repair, {"python": python})
        return
    shown = ".".join(map(str, version))
    facts = {"python": python, "version": shown}
    if done.returncode or version < [3, 11]:
        reason = f"Python {shown}" if version else done.stderr.strip().rpartition("\n")[2]
        yield Check("keeper", Severity.PROBLEM, f"{python} cannot run it: {reason}", repair, facts)
    elif cpu_seconds >= 0:
        message = f"the kernel kills it after {cpu_seconds} s of processor time (hard limit, RLIMIT_CPU)"
        repair = "Raise the hard limit of the service or session (LimitCPU=infinity, `ulimit -Ht`), or give it "
        yield Check("keeper", Severity.WARNING, message, f"{repair}CAP_SYS_RESOURCE.", facts)
    else:
        yield Check("keeper", Severity.FINE, f"run by {python} (Python {shown})", facts=facts)


def _pidfd() -> Check:
    """Check whether a pidfd gives the exit status of a child that has been reaped."""
    silent = [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]  # a shell warns in a deleted directory
    child = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], {}, file_actions=silent)
    descriptor: int | None = None
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(child)
    os.waitpid(child, 0)
    if descriptor is None:
        message = "not available: adopted jobs are polled for their end"
        return Check("pidfd", Severity.WARNING, message, facts={"pidfd": False, "get_info": False})
    status = pidfd.exit_status_of(descriptor)
    os.close(descriptor)
    known = status is not None and os.waitstatus_to_exitcode(status) == 7
    limit = "also after it was reaped" if known else "but not after it was reaped (that needs Linux 6.15)"
    message = f"the end of a process is noticed at once, with its exit status, {limit}"
    return Check("pidfd", Severity.FINE, message, facts={"pidfd": True, "get_info": known})


def check_limits() -> Iterator[Check]:
    """Check the resource limits that a supervisor with many jobs needs."""
    umask = os.umask(0o077)
    os.umask(umask)
    message = f"{umask:04o}, which jobs inherit; the state root is private with any umask"
    yield Check("umask", Severity.NOTE, message, facts={"umask": f"{umask:04o}"})
    names = {"NOFILE": "open files", "NPROC": "processes", "FSIZE": "file size", "CPU": "CPU seconds", "AS": "memory"}
    facts: dict[str, Any] = {}
    words: list[str] = []
    for name, noun in names.items():
        soft, hard = (
            None if limit == resource.RLIM_INFINITY else limit
            for limit in resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
        )
        facts[name.lower()] = {"soft": soft, "hard": hard}
        if soft is not None:
            words.append(f"{noun} {soft}")
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = soft != resource.RLIM_INFINITY and soft < _MIN_DESCRIPTORS
    message = f"{', '.join(words) or 'none'}, which jobs inherit"
    repair = "Raise it with `ulimit -n`: a supervisor uses a quarter of it for its jobs." if few else None
    yield Check("limits", Severity.WARNING if few else Severity.FINE, message, repair, facts)


def check_programs() -> Iterator[Check]:
    """Report which programs are on PATH, in which versions, and which kinds are registered."""
    from supervisor.interpret.tried import TRIED

    found = {name: shutil.which(name) for name in TRIED}
    versions = {name: None if path is None else _version_of(path) for name, path in found.items()}
    there = {
        name: "not on PATH" if path is None else f"{path} {versions[name] or 'of an unknown version'}"
        for name, path in found.items()
    }
    words = ", ".join(f"{name} {where} (tried with {' and '.join(TRIED[name])})" for name, where in there.items())
    facts = {**found, "versions": versions, "tried": {name: list(tried) for name, tried in TRIED.items()}}
    yield Check("agent CLIs", Severity.NOTE, words, facts=facts)
    git = shutil.which("git")
    facts = {"git": git, "version": None if git is None else _version_of(git)}
    message = "not on PATH: no job can have a worktree" if git is None else f"{git} {facts['version'] or ''}".rstrip()
    yield Check("git", Severity.NOTE, message, facts=facts)
    yield _kinds()


_VERSION: Final = re.compile(r"\d+\.\d+[\w.+-]*")
_VERSION_SECONDS: Final = 10.0


def _version_of(program: str) -> str | None:
    """Return what a program says about its version; ``None`` if it says nothing in time."""
    import subprocess

    environment = {**os.environ, "DISABLE_AUTOUPDATER": "1"}  # nothing is changed
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_VERSION_SECONDS,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = _VERSION.search(done.stdout)
    return said[0] if said is not None and not done.returncode else None


def _kinds() -> Check:
    """Check that every kind can be loaded, also those of other distributions."""
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
        return Check("kinds", Severity.FINE, words, facts=facts)
    message = f"{words}; {'; '.join(broken.values())}"
    return Check("kinds", Severity.WARNING, message, "Correct or remove the distributions that define them.", facts)
