"""The invariants after a round, judged from the marks of commands, the reports of programs, and the kernel.

This file uses no code of the package. ``Broken`` names the first invariant that does not hold.
"""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commands import GRACE_SECONDS, Command

TERMINAL = frozenset({"done", "failed", "cancelled", "timeout"})
SLACK_SECONDS = 1.5  # on a busy machine; a longer delay means that it was not watched


class Broken(Exception):
    """An invariant that does not hold."""


@dataclass
class Facts:
    """Everything that was observed of a round from outside.

    Times are those of the driver's monotonic clock. ``begun`` and ``ended`` are when the driver observed the
    leader of a command; ``lives`` is until when the supervisor that started it was alive.
    """

    root: Path
    marks: Path
    commands: dict[str, Command]
    events: list[dict[str, Any]] = field(default_factory=list)
    acked: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    killed: set[int] = field(default_factory=set)
    shot: set[str] = field(default_factory=set)
    begun: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    lives: dict[str, float] = field(default_factory=dict)
    starved: set[int] = field(default_factory=set)
    squeezed: set[int] = field(default_factory=set)
    paused: float = 0.0
    held: dict[int, float] = field(default_factory=dict)
    forgetting: set[str] = field(default_factory=set)
    pruned: bool = False
    cancelled: set[str] = field(default_factory=set)
    listed: dict[str, str] = field(default_factory=dict)
    knows_statuses: bool = True
    outcomes: Counter[str] = field(default_factory=Counter)
    keepers: dict[str, int | None] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ``Broken`` for the first invariant that does not hold."""
        judged = {event["job_id"]: event for event in self.events if event["event"] == "judged"}
        missing = {event["job_id"] for event in self.events if event["event"] == "missing"}
        begins: dict[str, list[str]] = {}
        ends: dict[str, tuple[str, int]] = {}
        for token in self.commands:
            begins[token] = []
            path = self.marks / token
            for line in path.read_text().splitlines() if path.exists() else []:
                words = line.split()
                if words[0] == "begin":
                    begins[token].append(words[2])
                else:
                    ends[words[3]] = (words[1], int(words[2]))
        for token, begun in begins.items():
            # Under one key there may be another job once the first was consumed or forgotten.
            kept = [each for each in begun if each not in missing or not (each in self.forgetting or self.pruned)]
            if len(set(begun)) != len(begun) or len(kept) > 1:
                message = f"ran {len(begun)} times: {self.commands[token].text}, as jobs {begun}"
                raise Broken(message)
        self._check_acknowledged(judged, missing, begins)
        by_job = {job_id: token for token, begun in begins.items() for job_id in begun}
        for token, acks in self.acked.items():
            for ack in acks:
                by_job.setdefault(ack["job_id"], token)
        for job_id, event in judged.items():
            job = event["job"]
            if job["status"] not in TERMINAL:
                message = f"never ends: job {job_id}: {job}"
                raise Broken(message)
            token = by_job.get(job_id) or (job["argv"][-1] if job["argv"][-1] in self.commands else None)
            if token is None:
                message = f"no program asked for job {job_id}: {job}"
                raise Broken(message)
            command = self.commands[token]
            self._check_verdict(command, job, ran=job_id in begins[token], end=ends.get(job_id))
            self._check_bytes(command, event, end=ends.get(job_id), ran=job_id in begins[token])
        self._check_seen(judged)
        self._check_lists(judged)
        for token in self.commands:
            self._check_deadline(self.commands[token])

    def _check_acknowledged(
        self,
        judged: dict[str, Any],
        missing: set[str],
        begins: dict[str, list[str]],
    ) -> None:
        for token, acks in self.acked.items():
            for ack in acks:
                job_id = ack["job_id"]
                if job_id not in judged and job_id not in missing:
                    message = f"no answer at all about job {job_id}"
                    raise Broken(message)
                if job_id in missing and job_id not in self.forgetting and not self.pruned:
                    message = f"acknowledged and gone: job {job_id}: {self.commands[token].text}"
                    raise Broken(message)
                if ack["status"] == "running" and job_id not in begins[token] and job_id in judged:
                    job = judged[job_id]["job"]
                    # The shell may have been ended before its first line, or had no descriptor for its libraries, as a
                    # keeper's child that was mistaken for the keeper; nothing else explains it.
                    if job["pid"] not in self.squeezed and job["reason"] in {"exited", "nonzero_exit", "launch_failed"}:
                        message = f"said to run and never ran: {self.commands[token].text}: {job}"
                        raise Broken(message)
            ids = {ack["job_id"] for ack in acks}
            if len(ids) > 1 and self.commands[token].key is not None:
                unlaunched = [
                    each for each in ids if each in judged and judged[each]["job"]["reason"] == "launch_failed"
                ]
                if len(ids) - len(unlaunched) > 1 and not ids & missing:
                    message = f"one key, several jobs: {ids}"
                    raise Broken(message)
        for job_id in missing & {each for begun in begins.values() for each in begun}:
            token = next(token for token, begun in begins.items() if job_id in begun)
            if token not in self.ended and token not in self.shot:
                message = f"forgotten alive: job {job_id}: {self.commands[token].text}"
                raise Broken(message)

    def _keeper_killed(self, job_id: str) -> bool:
        return self.keepers.get(job_id) in self.killed or self.keepers.get(job_id) is None

    def _check_verdict(self, command: Command, job: dict[str, Any], *, ran: bool, end: tuple[str, int] | None) -> None:
        job_id, status, reason = job["job_id"], job["status"], job["reason"]
        words = (
            (job["detail"] or "").partition(":")[0] if reason == "launch_failed" and command.kind != "missing" else ""
        )
        self.outcomes[f"{reason} ({words})" if words else reason] += 1
        what = f"{command.text}: ran={ran} ended={end} but job {job}"
        if job["detail"] and "missing or damaged" in job["detail"]:
            message = f"a job without a directory: {what}"
            raise Broken(message)
        if reason == "launch_failed":
            if ran:
                message = f"launch_failed, and it ran: {what}"
                raise Broken(message)
            if (
                "the keeper did not come up" in (job["detail"] or "")
                and "Error: " in job["detail"]
                and not self.squeezed
            ):
                message = f"a keeper that cannot run disarms the points in it: {what}"
                raise Broken(message)
            if command.end is not None and command.end[0] == "launch" and "never launched" not in (job["detail"] or ""):
                return
            return
        if reason in {"cancelled", "deadline"}:
            if reason == "cancelled" and job_id not in self.cancelled:
                message = f"cancelled, and no program asked for that: {what}"
                raise Broken(message)
            if reason == "deadline":
                self._check_not_early(command, job, what)
            if (status, reason) not in {("cancelled", "cancelled"), ("timeout", "deadline")}:
                message = f"state and reason do not fit: {what}"
                raise Broken(message)
            return
        if reason == "lost":
            self._check_lost(command, job, what)
            return
        if reason not in {"exited", "nonzero_exit", "killed_by_signal"}:
            message = f"a reason that nothing explains: {what}"
            raise Broken(message)
        found = ("signal", job["signal"]) if job["signal"] is not None else ("exit", job["exit_code"])
        # A keeper's child that was about to become the command may have been mistaken for the keeper.
        shot = command.token in self.shot or job["pid"] in self.killed
        wanted = ("signal", 9) if shot else end
        if found != wanted and not (shot and found == end) and job["pid"] not in self.squeezed:
            message = f"wrong verdict {found}, true is {wanted}: {what}"
            raise Broken(message)
        fits = {"exited": ("exit", 0), "nonzero_exit": found, "killed_by_signal": found}[reason]
        if found != fits or (status == "done") != (found == ("exit", 0)):
            message = f"state, reason and exit do not fit: {what}"
            raise Broken(message)

    def _ran_again(self, token: str) -> bool:
        """Whether there is a second job of a command: its first was consumed, so its key is free again.

        The driver knows the leader's times only for the first.
        """
        try:
            return (self.marks / token).read_text().count("begin ") > 1
        except FileNotFoundError:
            return False

    def _check_not_early(self, command: Command, job: dict[str, Any], what: str) -> None:
        if command.deadline is None:
            message = f"timeout without a deadline: {what}"
            raise Broken(message)
        ended = self.ended.get(command.token)
        if ended is not None and not self._ran_again(
            command.token
        ):  # such a command writes nothing after its first mark, so the file's time is that of the mark
            begun = (self.marks / command.token).stat().st_mtime - time.time() + time.monotonic()
            # It was spawned a little before it wrote, or long before: a keeper's child that was about to
            # become the command may have been mistaken for the keeper, and stopped.
            if ended - begun < command.deadline - 0.1 - self.held.get(job["pid"], 0):
                message = f"stopped {command.deadline - (ended - begun):.2f} s before its deadline: {what}"
                raise Broken(message)

    def _check_lost(self, command: Command, job: dict[str, Any], what: str) -> None:
        if job["exit_code"] is not None or job["signal"] is not None or job["status"] != "failed":
            message = f"lost, and yet known: {what}"
            raise Broken(message)
        if not self._keeper_killed(job["job_id"]):
            message = f"lost although its keeper ({self.keepers.get(job['job_id'])}) was not killed: {what}"
            raise Broken(message)
        token = command.token
        lives, ended = self.lives.get(token, 0.0), self.ended.get(token)
        # Only a supervisor that learned of the launch while the command ran holds a pidfd. If the keeper was
        # killed before it answered, the evidence reveals the launch, perhaps after the command's end. When that
        # was, the driver notes a little later.
        told = ended is not None and any(
            ack["status"] == "running" and ack.get("at", 0.0) < ended - 0.1 for ack in self.acked.get(token, ())
        )
        known = ended is not None and not self._ran_again(token)
        if self.knows_statuses and ended is not None and known and lives > ended + 0.5 + self.paused and told:
            message = f"lost although its supervisor lived for {lives - ended:.2f} s more: {what}"
            raise Broken(message)

    def _check_bytes(self, command: Command, event: dict[str, Any], *, end: tuple[str, int] | None, ran: bool) -> None:
        job = event["job"]
        found = list(self.root.glob(f"*-*/{job['job_id']}/result.json"))
        data = found[0].read_bytes() if found else None
        if not ran or job["reason"] == "launch_failed":
            if data:
                message = f"output without a run: {command.text}: {job}"
                raise Broken(message)
            return
        if data is None:
            message = f"no output file: {command.text}: {job}"
            raise Broken(message)
        if end is not None and data != command.output:
            message = f"{len(data)} bytes of output instead of {len(command.output)}: {command.text}: {job}"
            raise Broken(message)
        if not command.output.startswith(data):
            message = f"foreign bytes in the output: {command.text}: {job}"
            raise Broken(message)
        if job["status"] == "done":
            value = None if event["value"] is None else base64.b64decode(event["value"])
            if value != command.output:
                message = f"the result is not what was written: {command.text}: {job}"
                raise Broken(message)

    def _check_seen(self, judged: dict[str, Any]) -> None:
        """Check the reports of programs: a reported end does not change, and a cancelled tree has ended."""
        for event in self.events:
            if event["event"] in {"seen", "cancelled"} and event["status"] in TERMINAL and event["job_id"] in judged:
                now = judged[event["job_id"]]["job"]
                told = (event["status"], event.get("code", now["exit_code"]), event.get("signal", now["signal"]))
                if told != (now["status"], now["exit_code"], now["signal"]):
                    message = f"told {told} before, and now {now}"
                    raise Broken(message)
            if event["event"] == "cancelled" and event["left"] and event["status"] in {"cancelled", "timeout"}:
                message = f"cancelled, and {event['left']} are left: job {event['job_id']}"
                raise Broken(message)
        consumed = Counter(event["job_id"] for event in self.events if event["event"] == "consumed")
        for job_id, times in consumed.items():
            if times > 1:
                message = f"consumed {times} times: job {job_id}"
                raise Broken(message)
            if job_id in judged:
                message = f"consumed, and still there: job {job_id}"
                raise Broken(message)

    def _check_lists(self, judged: dict[str, Any]) -> None:
        here = {job_id: event["job"]["status"] for job_id, event in judged.items()}
        if self.listed != here:
            message = f"two fresh processes differ: {sorted(set(self.listed.items()) ^ set(here.items()))}"
            raise Broken(message)

    def _check_deadline(self, command: Command) -> None:
        token = command.token
        begun, ended = self.begun.get(token), self.ended.get(token)
        if command.deadline is None or begun is None or token in self.shot or self._ran_again(token):
            return
        job_id = (self.marks / token).read_text().split()[2]
        if ended is None or self._keeper_killed(job_id):
            return
        late = ended - begun - command.deadline - GRACE_SECONDS - self.paused
        supervised = self.lives.get(token, 0.0) < ended  # its supervisor died before: the keeper acts at most 2 s late
        if late > SLACK_SECONDS + (2.0 if supervised and self.lives.get(token, 0.0) > begun else 0.0):
            message = f"deadline missed by {late:.2f} s: {command.text}"
            raise Broken(message)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a log; a program may have been killed in the middle of one."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
