"""Which processes belong to which job.

A process belongs to the tree of a job by the session or group of its leader, by descent, by the mark in its
environment, by the tag in its limits (see ``job_marks``), or because it belonged to it before.

A process that cannot be read (see ``observing``) may belong to any tree: ``JobProcesses.incomplete`` says so, and no
tree is taken for gone.
"""

from __future__ import annotations

import os

from supervisor.jobdir import job_marks
from supervisor.keeper import registration
from supervisor.system import processes
from supervisor.system.observing import NotKnown
from supervisor.system.process_table import REFUSED, ProcessTable, in_portions, is_of_another_user, pass_by

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import Final

__all__ = ["JobProcesses", "JobTree", "Snapshot", "may_read_environments"]

_MAX_KNOWN: Final = 10_000
_YOUNG_TICKS: Final = 200  # a process younger than this may still be about to exec


class JobTree:
    """The tree of one job: its leader, and its known processes."""

    def __init__(self, job_id: str, pid: int, start: int, ended_ns: int | None = None) -> None:
        self.mark = job_id.encode("ascii")
        self.tag = job_marks.tag_of_job(job_id)
        self.pid = pid
        self.start = start
        self.ended = None if ended_ns is None else ended_ns // processes.TICK_NS
        self.known: set[tuple[int, int]] = set()
        self.session_known: set[tuple[int, int]] = set()


class JobProcesses(ProcessTable):
    """Takes snapshots of all processes and their jobs, and caches between them what cannot change."""

    def __init__(self) -> None:
        self._marks: dict[tuple[int, int], bytes] = {}
        self._tags: dict[tuple[int, int], int] = {}
        self._keepers: dict[tuple[int, int], bool] = {}
        super().__init__(self._marks, self._tags, self._keepers)

    def snapshot(
        self,
        marks: Container[bytes],
        pause: Callable[[], object] = pass_by,
        without: Container[int] = (),
    ) -> Snapshot:
        """Return all processes but ``without``, for trees with these ``marks``; ``pause`` is called now and then."""
        table = self.list(pause, without)
        marked = self.marks(table, pause)
        return Snapshot(table, marked, self._tags_of(table, marked, marks, pause), self.is_keeper)

    def marks(
        self,
        table: dict[int, processes.Process],
        pause: Callable[[], object] = pass_by,
    ) -> dict[int, bytes]:
        """Return the job id that each process of ``table`` carries in its environment, by pid."""
        if not processes.HAVE_PROC:
            try:
                return {pid: mark for pid, mark in job_marks.marks_by_ps().items() if pid in table}
            except NotKnown as error:
                self.incomplete = error
                return {}
        young = _youngest_tick()
        found: dict[int, bytes] = {}
        for pid, process in in_portions(table.items(), pause):
            key = (pid, process.start)
            mark = self._marks.get(key)
            if mark is None:
                try:
                    mark = job_marks.mark_of(pid)
                except NotKnown as error:
                    if error.errno not in REFUSED or not may_read_environments():
                        self.incomplete = error
                        continue
                    mark = b""  # the process holds more rights than this one
                # Having no mark is final only for a process that can no longer be between fork
                # and exec; having one is final, even if an exec scrubs the environment later.
                if mark or process.start < young:
                    self._marks[key] = mark
            if mark:
                found[pid] = mark
        return found

    def _tags_of(
        self,
        table: dict[int, processes.Process],
        marked: dict[int, bytes],
        marks: Container[bytes],
        pause: Callable[[], object],
    ) -> dict[int, int]:
        """Return the tag of each process of ``table`` that has one and carries none of ``marks``."""
        found: dict[int, int] = {}
        for pid, process in in_portions(table.items() if processes.HAVE_PROC else (), pause):
            if marked.get(pid, b"") in marks:
                continue
            key = (pid, process.start)
            tag = self._tags.get(key)
            if tag is None:
                try:
                    tag = self._tags[key] = job_marks.tag_of(pid)
                except NotKnown as error:
                    if error.errno not in REFUSED or not is_of_another_user(pid):
                        self.incomplete = error
                    continue
            if tag:
                found[pid] = tag
        return found

    def is_keeper(self, process: processes.Process) -> bool:
        """Whether a process is a keeper, which belongs to no tree; also where that cannot be read now."""
        key = (process.pid, process.start)
        known = self._keepers.get(key)
        if known is None:
            if len(self._keepers) > _MAX_KNOWN:  # a list of all processes drops those that are gone, and may be rare
                self._keepers.clear()
            try:
                known = registration.is_keeper(*key, processes.boot_id(), processes.pid_namespace())
            except NotKnown as error:
                self.incomplete = error
                return True
            if known or process.start < _youngest_tick():
                self._keepers[key] = known
        return known


def _youngest_tick() -> int:
    return processes.boottime_ns() // processes.TICK_NS - _YOUNG_TICKS


def may_read_environments() -> bool:
    """Whether any environment can be read: that of this process, which a dumpable one can read (see ``spawn``)."""
    if not _readable:
        try:
            processes.slurp("/proc/self/environ")
        except OSError:
            return False
        _readable.append(True)
    return True


_readable: Final[list[bool]] = []
"""Not empty once an environment was read."""


class Snapshot:
    """The processes of one moment, indexed by what makes a process belong to a tree."""

    def __init__(
        self,
        table: dict[int, processes.Process],
        marks: dict[int, bytes],
        tags: dict[int, int],
        is_keeper: Callable[[processes.Process], bool],
    ) -> None:
        self._table = table
        self._tags = tags
        self._is_keeper = is_keeper
        self._by_mark: dict[bytes, list[processes.Process]] = {}
        self._by_tag: dict[int, list[processes.Process]] = {}
        self._by_session: dict[int, list[processes.Process]] = {}
        self._by_group: dict[int, list[processes.Process]] = {}
        self._children: dict[int, list[processes.Process]] = {}
        for pid, process in table.items():
            self._by_session.setdefault(process.session, []).append(process)
            self._by_group.setdefault(process.group, []).append(process)
            self._children.setdefault(process.parent, []).append(process)
            if (mark := marks.get(pid)) is not None:
                self._by_mark.setdefault(mark, []).append(process)
            if (tag := tags.get(pid)) is not None:
                self._by_tag.setdefault(tag, []).append(process)

    def members(self, tree: JobTree) -> list[processes.Process]:
        """Return every live process of a tree that may be signalled."""
        leader = self._table.get(tree.pid)
        if leader is not None and leader.start != tree.start:
            leader = None
        found: dict[int, processes.Process] = {}
        ways = [] if leader is None else [leader]
        ways += self._session(tree, leads=leader is not None)
        ways += self._by_mark.get(tree.mark, ())
        ways += self._by_tag.get(tree.tag, ())
        # A member may have lost its parent by a SIGTERM from here, and its session by its own doing.
        for pid, start in tree.known:
            process = self._table.get(pid)
            if process is not None and process.start == start:
                ways.append(process)
        own = os.getpid()
        while ways:
            process = ways.pop()
            if process.pid in found or process.start < tree.start or process.pid == own or self._is_keeper(process):
                continue
            found[process.pid] = process
            # A child with the tag of another job belongs to that job, wherever it hangs. A mark says nothing of
            # that: any process can change its own.
            ways += [
                child for child in self._children.get(process.pid, ()) if self._tags.get(child.pid) in {None, tree.tag}
            ]
        tree.known.update((process.pid, process.start) for process in found.values())
        return list(found.values())

    # Born in the same tick as the end counts as before: no pid is given out twice within 10 ms.
    def _session(self, tree: JobTree, *, leads: bool) -> list[processes.Process]:
        """Return the members of the leader's session and group, if it provably still is that one.

        The number of a session is not given out again while it has a member. So it is that of the tree as long as the
        leader lives, or a member was born before the leader ended, or was a member in the last snapshot.
        """
        members = self._by_session.get(tree.pid, []) + self._by_group.get(tree.pid, [])
        keys = {(process.pid, process.start) for process in members}
        if not (
            leads
            or keys & tree.session_known
            or (tree.ended is not None and any(tree.start <= process.start <= tree.ended for process in members))
        ):
            return []
        tree.session_known = keys
        return members
