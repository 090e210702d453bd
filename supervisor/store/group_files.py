"""What the index has of the files of the groups: copied from them, and written by transactions that find a cause.

A process may be killed after it has changed a file and before it has changed the index. So each turn compares the
directories of the files with what the turn before has noticed, and copies them again after a change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from supervisor import log
from supervisor.errors import StateCorrupt
from supervisor.states import State
from supervisor.store import groups, pauses, usage_limits
from supervisor.store.queue import Queue
from supervisor.store.queue.usage import FOR_EVER_NS
from supervisor.store.rows import Row
from supervisor.store.state_errors import find_in_root
from supervisor.store.state_root import Layout
from supervisor.store.tickets import Moment
from supervisor.store.usage_limits import LimitState
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

    def import_budgets(self) -> None:
        """Enter the budgets of the groups; the next turn looks at all files again."""
        for name, group in groups.load_all(self._layout.root):
            if isinstance(group, groups.Group):
                self._queue.pacing.note_budgets(name, group.held_budgets)
        self._queue.pacing.notice("files", "")

    def _enter(self, name: str, group: groups.Group | StateCorrupt, *, empty: bool = False) -> None:
        if isinstance(group, groups.Group):
            self.enter(group, empty=empty)
        else:  # until its file is corrected it admits nothing
            log.warning("group_not_understood", group=name, error=group.message)
            self._queue.set_group(name, limit=None, paused_until_ns=FOR_EVER_NS, aging_ns=0)

    def enter(self, group: groups.Group, *, empty: bool = False) -> None:
        """Copy what its files say about a group. ``empty``: it has no token for a start now, if it is new here."""
        found = pauses.load(self._layout.root, group.name)
        limits = [LimitState.of(each.more) for each in found if each.by == usage_limits.CAUSE]
        self._queue.pacing.note_limit(group.name, limits[0] if limits else None)
        self._queue.pacing.note_budgets(group.name, group.held_budgets)
        self._queue.set_group(
            group.name,
            limit=group.limit,
            paused_until_ns=groups.end_of([*group.pauses, *found]),
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
        pauses.write(self._layout.root, name, pause, durable=self._layout.durable)
        self._queue.pause(name, groups.end_of([pause]))

    def note_end(self, row: Row, names: Iterable[str], started_ns: int | None) -> None:
        """Pause the groups of a job that has met a usage limit, and those with too many failures in a row.

        ``started_ns``: when the job was launched, by the wall clock; ``None`` for a job that was not.
        """
        if row.state == State.CANCELLED.value:
            return
        failed = row.state != State.DONE.value
        ended_ns, error = row.completed_ns or 0, (row.ended or {}).get("error")
        for name in names:
            if (
                error
                and usage_limits.is_limited(error)
                and self._wait_out(name, row.job_id, error, started_ns or ended_ns, ended_ns)
            ):
                continue
            if not failed:
                self._note_success(name, started_ns)
            if self._queue.pacing.note_end(name, failed=failed):
                detail = f"too many jobs in a row have failed, the last of them {row.job_id}"
                self.pause(name, groups.Pause("failures", None, detail))

    # ------------------------------------------------------------ usage limits

    def note_news(self, limit: Mapping[str, Any], job_id: str, names: Iterable[str], started_ns: int) -> None:
        """Follow what the output of a running job says about a usage limit, see ``Progress.limit``."""
        error, now = usage_limits.error_of(limit), self._layout.clock.moment()
        for name in names:
            if error is not None:
                if not usage_limits.is_over(error, now):  # such news may be old: they are read again by each supervisor
                    self._wait_out(name, job_id, error, started_ns, now.wall_ns)
                continue
            before = self._queue.pacing.limit_of(name)
            state = usage_limits.state_by_utilization(limit, before, now)
            if state is not None and groups.any_waits_out(self._layout.root, (name,)):
                detail = f"job {job_id} has nearly used up the usage limit {state.careful_for} of its account"
                self._pause(name, state, detail)

    def _wait_out(self, name: str, job_id: str, error: Mapping[str, Any], started_ns: int, ended_ns: int) -> bool:
        """Pause a group until the end of a limit that one of its jobs has met; return whether it waits for such."""
        if not groups.any_waits_out(self._layout.root, (name,)):
            return False
        before = self._queue.pacing.limit_of(name)
        state = usage_limits.state_after(error, started_ns, ended_ns, before, self._layout.clock.moment())
        if state is not None:
            self._pause(name, state, usage_limits.describe(error, state, job_id))
        return True

    def _pause(self, name: str, state: LimitState, detail: str) -> None:
        self._queue.pacing.note_limit(name, state)
        self.pause(name, groups.Pause(usage_limits.CAUSE, state.until_ns, detail, state._asdict()))

    def _note_success(self, name: str, started_ns: int | None) -> None:
        """Have a group start any number of jobs again, once one that began after the pause has succeeded.

        Where the end of the limit was named, the restart goes on for its minute: one success is no proof for many jobs.
        """
        state = self._queue.pacing.limit_of(name)
        if state is None or (started_ns or 0) < state.until_ns:
            return
        now = self._layout.clock.moment()
        if state.careful_until_ns > now.wall_ns:
            if state.round:
                self._pause(name, state._replace(round=0), "a usage limit of the account is nearly used up")
        elif state.round or state.slots(None, now) is None:
            pauses.remove(self._layout.root, name, usage_limits.CAUSE, durable=self._layout.durable)
            self._queue.pacing.note_limit(name, None)
