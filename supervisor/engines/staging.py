"""What is put into a job directory for another process, or into a shared one for the nodes: orders, and the keeper."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from supervisor.jobdir.records import ORDERS, STDIN, write_all
from supervisor.keeper.orders import Orders
from supervisor.system.process_settings import process_settings

if TYPE_CHECKING:
    from supervisor.engines.interface import LaunchRequest

__all__ = ["KEEPER_FILES", "Inherited", "orders_of", "program_in", "write_orders", "write_private"]

KEEPER_FILES: Final = (
    "keeper/channels.py",
    "keeper/entry.py",
    "keeper/helper_starts.py",
    "keeper/job_cgroups.py",
    "keeper/job_processes.py",
    "keeper/launches.py",
    "keeper/loop.py",
    "keeper/orders.py",
    "keeper/output_limit.py",
    "keeper/protocol.py",
    "keeper/registration.py",
    "keeper/relay.py",
    "keeper/resource_limits.py",
    "keeper/single_job.py",
    "keeper/spawn.py",
    "keeper/stop_record.py",
    "keeper/stops.py",
    "keeper/syncs.py",
    "keeper/terminals.py",
    "keeper/tree_killer.py",
    "keeper/turns.py",
    "keeper/unwritten.py",
    "jobdir/durability.py",
    "jobdir/factories.py",
    "jobdir/job_marks.py",
    "jobdir/measures.py",
    "jobdir/plain_json.py",
    "jobdir/records.py",
    "jobdir/stops.py",
    "system/cgroups.py",
    "system/inotify.py",
    "system/message_bus.py",
    "system/observing.py",
    "system/process_table.py",
    "system/processes.py",
    "system/scopes.py",
    "system/syncing.py",
)
"""The files that the keeper runs, below the package: standard library only."""

_ENTRY: Final = "keeper/entry.py"


def write_private(path: str, content: bytes) -> None:
    """Write a new file that no other user may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.fstat(descriptor).st_mode & 0o777 != 0o600:  # an odd umask
            os.fchmod(descriptor, 0o600)
        write_all(descriptor, memoryview(content))
    finally:
        os.close(descriptor)


class Inherited(NamedTuple):
    """What jobs get from this process; reading it takes 90 us.

    Attributes:
        environment: for those without one of their own.
        settings: umask, niceness and limits.
    """

    environment: Mapping[bytes, bytes]
    settings: tuple[int, int, dict[int, tuple[int, int]]]

    @classmethod
    def now(cls) -> Inherited:
        """Read it."""
        return cls(dict(os.environb), process_settings())


def orders_of(request: LaunchRequest, inherited: Inherited | None = None) -> Orders:
    """Return what another process needs to launch a job, without its input."""
    environment, settings = inherited or Inherited.now()
    record = request.record
    return Orders(
        job_id=request.job_id,
        argv=list(request.argv),
        workspace=os.fsencode(request.workspace),
        environment={**(environment if request.env is None else request.env), **request.changes},
        deadline=request.deadline_seconds,
        grace=request.grace_seconds,
        limit=request.output_limit,
        begun_ns=record["created_ns"] if record.get("deadline_from") == "submission" else None,
        settings=settings if request.settings is None else request.settings,
        merge_stderr=request.merge_stderr,
        no_new_privs=record.get("no_new_privs", False),
    )


def write_orders(request: LaunchRequest, inherited: Inherited | None = None) -> None:
    """Write the orders of a job into its directory: ``orders``, and ``stdin`` if it has any.

    Raises:
        OSError: they cannot be written, or are there.
    """
    if request.stdin is not None:
        write_private(f"{request.directory}/{STDIN}", request.stdin)
    write_private(f"{request.directory}/{ORDERS}", orders_of(request, inherited).encode())


def program_in(shared: str) -> str:
    """Return the path of the keeper in a shared directory, after putting it there if need be.

    Nodes need not have this package, and jobs that wait keep the keeper that they were submitted with.
    """
    import shutil
    import tempfile
    from hashlib import sha256  # together 6 ms, for clusters only

    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sources = {name: _source(f"{package}/{name}") for name in KEEPER_FILES}
    digest = sha256(b"\0".join(sources.values())).hexdigest()[:12]
    home = f"{shared}/.keeper-{digest}"
    program = f"{home}/keeper/entry.py"
    if not os.path.exists(program):
        aside = tempfile.mkdtemp(prefix=".keeper-", dir=shared)
        for name, source in sources.items():
            os.makedirs(f"{aside}/{os.path.dirname(name)}", mode=0o700, exist_ok=True)
            with open(f"{aside}/{name}", "wb") as file:
                file.write(source)
        _compile(aside)
        try:
            os.rename(aside, home)
        except OSError:  # another process has put it there
            shutil.rmtree(aside, ignore_errors=True)
    return program


def _source(path: str) -> bytes:
    """Return a file of this package, which may be in an archive (a zip application)."""
    loader: Any = __spec__.loader
    if not os.path.exists(path) and hasattr(loader, "get_data"):
        content: bytes = loader.get_data(path)
        return content
    with open(path, "rb") as file:
        return file.read()


def _compile(directory: str) -> None:
    """Compile the keeper once instead of at every start; a node with another Python does without."""
    import py_compile

    for name in KEEPER_FILES:
        if name == _ENTRY:  # a script is compiled at every start
            continue
        with contextlib.suppress(OSError, py_compile.PyCompileError):
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(f"{directory}/{name}", invalidation_mode=mode, doraise=True)
