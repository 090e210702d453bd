"""What the index has of the files of the groups: copied from them, and written by transactions that find a cause.

A process may be killed after it has changed a file and before it has changed the index. So each turn compares the
directories of the files with what the turn before has noticed, and copies them again after a change.
"""

from __future__ import annotations

from collections.abc import Iterable

from supervisor import log
from supervisor.errors import StateCorrupt
from supervisor.states import State
from supervisor.store import groups, pauses
from supervisor.store.queue import Queue
from supervisor.store.rows import Row
from supervisor.store.state_errors import find_in_root
from supervisor.store.state_root import Layout
from supervisor.store.tickets import Moment
from supervisor.store.usage import FOR_EVER_NS
from supervisor.system.file_systems import has_settled

__all__ = ["GroupFiles"]


class GroupFiles:
    """The files of the groups of a state root, and the queue in its index.

    Args:
        layout: the state root.
        queue: in the index; every method runs within a transaction of the caller.
    """

    def __init__(self, layout: Layout, queue: Queue) -> None:
        """Read and write these."""
        self._layout = layout
        self._queue = queue

    def import_all(self, now: Moment) -> None:
        """Enter the groups; one that has a rate begins without a token, as jobs may have started just now."""
        self._queue.pacing.notice("boot", now.boot)
        for name, group in groups.load_all(self._layout.root):
            self._enter(name, group, empty=True)

    def _enter(self, name: str, group: groups.Group | StateCorrupt, *, empty: bool = False) -> None:
        if isinstance(group, groups.Group):
            self.enter(group, empty=empty)
        else:  # until its file is corrected it admits nothing
            log.warning("group_not_understood", group=name, error=group.message)
            self._queue.set_group(name, limit=None, paused_until_ns=FOR_EVER_NS, aging_ns=0)

    def enter(self, group: groups.Group, *, empty: bool = False) -> None:
        """Copy what its files say about a group. ``empty``: it has no token for a start now, if it is new here."""
        self._queue.set_group(
            group.name,
            limit=group.limit,
            paused_until_ns=groups.end_of([*group.pauses, *pauses.load(self._layout.root, group.name)]),
            aging_ns=group.aging_ns,
            settings=group.settings,
            now=self._layout.clock.moment(),
            empty=empty,
        )

    # ------------------------------------------------------------ what has changed since the last turn

    def have_changed(self) -> bool:
        """Whether the index may not have what the files say."""
        stamp = self._stamp()
        return stamp is None or stamp != self._queue.pacing.noticed().get("files")

    def _stamp(self) -> str | None:
        """Return what any change of a file changes; ``None`` if one was changed a moment ago."""
        stamps: list[str] = []
        for directory in (groups.DIRECTORY, pauses.DIRECTORY):
            found = find_in_root(f"{self._layout.root}/{directory}")
            if found is not None and not has_settled(found):
                return None
            stamps.append("" if found is None else f"{found.st_ino}.{found.st_ctime_ns}")
        return " ".join(stamps)

    def follow(self, now: Moment) -> None:
        """Copy the files again if any was changed; after a reboot, do to waiting jobs what their groups say."""
        noticed = self._queue.pacing.noticed()
        stamp = self._stamp()
        if stamp is None or stamp != noticed.get("files"):
            self._copy(stamp or "")
        boot = noticed.get("boot")
        if boot != now.boot:
            self._queue.pacing.notice("boot", now.boot)
        if boot not in {None, now.boot}:
            self._follow_reboot()

    def _copy(self, stamp: str) -> None:
        gone = self._queue.groups()
        for name, group in groups.load_all(self._layout.root):
            self._enter(name, group)
            gone.discard(name)
        for name in gone:
            self._queue.remove_group(name)
        self._queue.pacing.notice("files", stamp)

    def _follow_reboot(self) -> None:
        for name, what in self._queue.pacing.on_reboot():
            if what == "fail":
                self._queue.end_waiting(name, "cancelled", {"group": name, "on_reboot": what})
            elif self._queue.counts(name).waiting:
                self.pause(name, groups.Pause("reboot", None, "jobs waited when the machine was started anew"))

    # ------------------------------------------------------------ causes of pauses

    def pause(self, name: str, pause: groups.Pause) -> None:
        """Pause a group by a cause."""
        pauses.write(self._layout.root, name, pause)
        self._queue.pause(name, groups.end_of([pause]))

    def note_end(self, row: Row, names: Iterable[str]) -> None:
        """Count the failures in a row of the groups of a job that has ended; pause those with too many."""
        if row.state == State.CANCELLED.value:
            return
        failed = row.state != State.DONE.value
        for name in names:
            if self._queue.pacing.note_end(name, failed=failed):
                detail = f"too many jobs in a row have failed, the last of them {row.job_id}"
                self.pause(name, groups.Pause("failures", None, detail))
