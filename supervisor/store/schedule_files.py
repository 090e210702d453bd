"""The files of the schedules, ``<root>/schedules/``: what they start and when, their input, and what they have done.

::

    schedules/NAME.json             what is to be started, and when: the truth
    schedules/NAME.<digest>.stdin   its input, if it has any
    schedules/.fired/NAME.json      a copy of the state in its row, for an index that is made anew

Only their user can read them: they hold the environment and the input of jobs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import attrs

from supervisor.errors import StateCorrupt
from supervisor.store.named_files import NamedFiles, replace_file
from supervisor.store.schedule_directory import DIRECTORY, FIRED
from supervisor.store.state_errors import state_error
from supervisor.system.syncing import sync_names

__all__ = ["Schedule", "State", "check_name", "load", "load_all", "read_stdin", "remove", "save"]

_VERSION: Final = 1
_MAX_SPANS: Final = 16


@attrs.frozen(slots=True, kw_only=True)
class Schedule:
    """What a schedule starts, and when.

    Attributes:
        name: of the schedule.
        cron: the expression.
        zone: the name of its time zone.
        overlap: what an instant does while a job of the schedule has not ended.
        catch_up: which missed instants are fired.
        window_ns: how old a missed instant may be.
        jitter_ns: the longest delay after an instant.
        paused: whether it fires nothing.
        created_ns: instants before this time are not missed.
        request: the options of the start, as JSON, without the input.
        settings: umask, niceness and resource limits of its jobs, by their numbers.
        digest: of its input; ``None`` without any.
    """

    name: str
    cron: str
    zone: str
    overlap: str
    catch_up: str
    window_ns: int
    jitter_ns: int
    paused: bool = False
    created_ns: int
    request: Mapping[str, Any]
    settings: tuple[int, int, Mapping[int, tuple[int, int]]]
    digest: str | None = None


_MEMBERS: Final = frozenset(attrs.fields_dict(Schedule)) | {"v"}
_KINDS: Final = {"cron": str, "zone": str, "overlap": str, "catch_up": str, "paused": bool, "request": dict} | (
    dict.fromkeys(("window_ns", "jitter_ns", "created_ns"), int)
)


def _decode(name: str, held: dict[str, Any]) -> Schedule:
    if held["v"] != _VERSION or not held.keys() <= _MEMBERS:
        message = "a newer version of this package has written it"
        raise ValueError(message)
    for member, kind in _KINDS.items():
        if type(held[member]) is not kind:
            message = f"{member} is no {kind.__name__}"
            raise ValueError(message)
    umask, nice, limits = held["settings"]
    settings = int(umask), int(nice), {int(number): (int(soft), int(hard)) for number, (soft, hard) in limits.items()}
    members = {member: held[member] for member in held.keys() - {"v", "name", "settings"}}
    return Schedule(name=name, settings=settings, **members)


_FILES: Final = NamedFiles(
    DIRECTORY,
    "schedule",
    _decode,
    "Correct or delete {path}; `supervisor schedule rm {name}` deletes it.",
)
check_name, load, load_all = _FILES.check_name, _FILES.load, _FILES.load_all


def save(root: str, schedule: Schedule, stdin: bytes | None = None, *, durable: bool = False) -> Schedule:
    """Write the files of a schedule, and return it; the caller holds the lock of the root.

    Args:
        root: the state root.
        schedule: to write.
        stdin: its input, unless the file of that is there.
        durable: see ``named_files``.

    Raises:
        StateFull, StateBusy, PermissionDenied: they cannot be written.
    """
    path = f"{root}/{DIRECTORY}/{schedule.name}"
    if stdin is not None:
        schedule = attrs.evolve(schedule, digest=sha256(stdin).hexdigest()[:16])
    try:
        if stdin is not None:
            replace_file(f"{path}.{schedule.digest}.stdin", stdin, root if durable else None)
        held = {**attrs.asdict(schedule, recurse=False), "v": _VERSION}
        _FILES.save(root, schedule.name, held, durable=durable)
        for other in _inputs(root, schedule.name):
            if other != schedule.digest:
                os.unlink(f"{path}.{other}.stdin")
    except OSError as error:
        raise state_error(error, f"cannot write {path}.json") from error
    return schedule


def _inputs(root: str, name: str) -> list[str]:
    """Return the digests of the inputs of a schedule that are there."""
    pattern = re.compile(rf"{re.escape(name)}\.([0-9a-f]{{16}})\.stdin")
    return [found[1] for each in os.listdir(f"{root}/{DIRECTORY}") if (found := pattern.fullmatch(each))]


def read_stdin(root: str, schedule: Schedule) -> bytes | None:
    """Return the input of the jobs of a schedule.

    Raises:
        StateCorrupt: it is gone.
        StateBusy, PermissionDenied: it cannot be read now.
    """
    if schedule.digest is None:
        return None
    path = f"{root}/{DIRECTORY}/{schedule.name}.{schedule.digest}.stdin"
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        message = f"the input of schedule {schedule.name} is gone: {path}"
        repair = f"Add the schedule again: `supervisor schedule rm {schedule.name}`, then `supervisor schedule add`."
        raise StateCorrupt(message, repair=repair) from None
    except OSError as error:
        raise state_error(error, f"cannot read {path}") from error


def remove(root: str, name: str, *, durable: bool = False) -> bool:
    """Delete the files of a schedule; ``False`` if there is none of this name. ``durable``: see ``named_files``.

    Raises:
        StateBusy, PermissionDenied: they cannot be deleted.
    """
    try:
        os.unlink(f"{root}/{DIRECTORY}/{check_name(name)}.json")
        if durable:  # before its input goes
            sync_names(f"{root}/{DIRECTORY}", root)
        for path in [f"{FIRED}/{name}.json", *(f"{DIRECTORY}/{name}.{each}.stdin" for each in _inputs(root, name))]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{root}/{path}")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise state_error(error, f"cannot delete the file of schedule {name}") from error
    return True


@attrs.frozen(slots=True, kw_only=True)
class State:
    """What a schedule has done.

    Attributes:
        since_ns: instants up to this time are not missed. It is the time of the creation, or an earlier one to which
            the clock was set back since.
        spans: the decided instants, as spans from a first to a last one, the newest span last.
        last_ns: the instant that was decided last.
        last_job: the last job, ``None`` before the first.
        note: why the last instant has no job; ``None`` if it has one.
    """

    since_ns: int
    spans: tuple[tuple[int, int], ...] = ()
    last_ns: int | None = None
    last_job: str | None = None
    note: str | None = None

    def has_decided(self, instant_ns: int) -> bool:
        """Whether an instant was decided."""
        return any(first <= instant_ns <= last for first, last in self.spans)

    def deciding(self, instant_ns: int, job_id: str | None, note: str | None = None) -> State:
        """Return the state after an instant was decided."""
        return attrs.evolve(
            self,
            spans=(*self.spans, (instant_ns, instant_ns)),
            last_ns=instant_ns,
            last_job=self.last_job if job_id is None else job_id,
            note=note,
        )

    def running(self, job_id: str) -> State:
        """Return the state after a job was started out of turn."""
        return attrs.evolve(self, last_job=job_id, note=None)

    def silenced(self, note: str) -> State:
        """Return the state of a schedule that is not understood."""
        return attrs.evolve(self, note=note)

    @classmethod
    def decode(cls, text: str | bytes, since_ns: int) -> State:
        """Return the state in a row or a file; one that is damaged is that of a new schedule."""
        try:
            held: dict[str, Any] = json.loads(text)
            spans = tuple((int(first), int(last)) for first, last in held["spans"])
            last_ns, last_job, note = held["last_ns"], held["last_job"], held["note"]
            return cls(since_ns=int(held["since_ns"]), spans=spans, last_ns=last_ns, last_job=last_job, note=note)
        except (ValueError, KeyError, TypeError, RecursionError):
            return cls(since_ns=since_ns)

    def encode(self) -> str:
        """Return the state as it stands in a row."""
        return json.dumps(attrs.asdict(attrs.evolve(self, spans=self.spans[-_MAX_SPANS:])))
