"""Questions to the user before a job of a kind with ``confirm`` is started.

A client of an older protocol is asked during its call. One of 2026-07-28 gets the question as the answer, and repeats
its call with the user's answer and with a state, which this server has sealed. The state is bound to the principal and
to all of the request, it names the workspace that was shown, and it counts once: the job that it has started holds
an idempotency key with its number, and a repeated call gets that job.

Only an answer to a question of this server counts. A state that is unknown, too old, or of another request has the user
asked again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

import attrs
import trio
from mcp import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from supervisor.errors import FeatureUnavailable, SupervisorError
from supervisor.jobs.validation import checked_spec, digest_of
from supervisor.jobs.words import duration
from supervisor.mcp_server.access.principals import scoped_key
from supervisor.mcp_server.config.kinds import Kind
from supervisor.mcp_server.config.workspaces import ChosenWorkspace
from supervisor.mcp_server.tools.brief import word
from supervisor.mcp_server.tools.tool import Call
from supervisor.model import Job, JobSpec

if TYPE_CHECKING:
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["Confirming", "NotConfirmed"]

_ANSWER_SECONDS: Final = 600.0
"""How long the user may take, and how long a state counts."""
_MAX_USED: Final = 4096
_MAX_VALUE: Final = 300
_CONFIRM: Final = "confirm"
_KEY: Final = "mcp.confirmed/"


class NotConfirmed(SupervisorError):
    """The user has not agreed to the start of a job; nothing was started."""

    code: ClassVar[str] = "not_confirmed"
    default_repair: ClassVar[str] = "Start nothing; ask the user what to do instead."


@attrs.frozen(slots=True)
class _State:
    """What a repeated call brings back.

    Attributes:
        number: the number of the question, unguessable.
        asked_at: the time of the question, by the clock of this server.
        workspace: the workspace that was shown.
        warnings: about that workspace.
        digest: of the request.
    """

    number: str
    asked_at: float
    workspace: str
    warnings: tuple[str, ...]
    digest: str


class Confirming:
    """Asks users, and remembers which answers were used."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._used: OrderedDict[str, float] = OrderedDict()
        self._oldest = 0.0  # a state of this time or before does not count

    # ------------------------------------------------------------ the state of a question

    def place(self, call: Call) -> ChosenWorkspace | None:
        """Return the workspace that a question has shown, for the call that brings its answer."""
        state = self._state(call)
        return None if state is None else ChosenWorkspace(state.workspace, state.warnings)

    def _state(self, call: Call) -> _State | None:
        """Return the state of a call, if this server has sealed it for this principal, and it still counts."""
        given = call.params.request_state
        if given is None or _CONFIRM not in (call.params.input_responses or {}):
            return None
        text, _, seal = given.partition(".")
        if not hmac.compare_digest(seal.encode(), self._seal(text, call).encode()):
            return None
        number, asked_at, workspace, warnings, digest = json.loads(base64.urlsafe_b64decode(text))
        state = _State(number, asked_at, workspace, tuple(warnings), digest)
        too_old = trio.current_time() - _ANSWER_SECONDS
        return state if state.asked_at > max(self._oldest, too_old) else None

    def _sealed(self, state: _State, call: Call) -> str:
        text = base64.urlsafe_b64encode(json.dumps(attrs.astuple(state)).encode()).decode()
        return f"{text}.{self._seal(text, call)}"

    def _seal(self, text: str, call: Call) -> str:
        bound = json.dumps([text, call.params.name, call.principal, (call.params.arguments or {}).get("job_id")])
        return hmac.new(self._secret, bound.encode(), hashlib.sha256).hexdigest()

    # ------------------------------------------------------------ starting

    async def start(
        self, call: Call, supervisor: Supervisor, kind: Kind, spec: JobSpec, warnings: Sequence[str]
    ) -> Job | InputRequiredResult:
        """Start a job once the user has agreed; return the question where the client repeats its call.

        A request whose idempotency key has a job starts nothing, so it is not asked about.

        Raises:
            NotConfirmed: the user has not agreed, or the answer was used already.
            FeatureUnavailable: the client cannot ask its user.
            SupervisorError: as ``Supervisor.start`` raises it.
        """
        state = self._state(call)
        digest = _digest(spec)
        if state is not None and state.digest != digest:
            state = None
        if state is not None and spec.idempotency_key is None:
            spec = attrs.evolve(spec, idempotency_key=scoped_key(call.principal, _KEY + state.number))
        spec = checked_spec(spec)
        drafts = supervisor.launcher.drafts
        found = await drafts.draft(spec, await drafts.workspaces.real(spec.workspace))
        if isinstance(found, Job):
            return found
        if not _can_ask(call):
            message = f"{kind.name} asks the user before it starts a job, and this host offers no elicitation"
            repair = "Ask the user to start it, or to remove `confirm` from the kind."
            raise FeatureUnavailable(message, repair=repair)
        if call.context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            _check(kind, await _answer(call, kind, _question(kind, call, spec)))
            return await supervisor.start(spec)
        if state is None:
            number = os.urandom(16).hex()
            asked = _State(number, trio.current_time(), spec.workspace, tuple(warnings), digest)
            return InputRequiredResult(
                input_requests={_CONFIRM: _question(kind, call, spec)}, request_state=self._sealed(asked, call)
            )
        _check(kind, (call.params.input_responses or {})[_CONFIRM])
        self._use(state)
        try:
            return await supervisor.start(spec)
        except SupervisorError:  # nothing was started
            self._used.pop(state.number, None)
            raise

    def _use(self, state: _State) -> None:
        """Note that an answer is used.

        Raises:
            NotConfirmed: it was used before, and its job is not there any more.
        """
        if state.number in self._used:
            message = "this answer of the user was used already"
            raise NotConfirmed(message, repair="Call job_list for the job; call again without the answer for another.")
        self._used[state.number] = state.asked_at
        while len(self._used) > _MAX_USED:  # a state as old as one that is forgotten does not count any more
            _, asked_at = self._used.popitem(last=False)
            self._oldest = max(self._oldest, asked_at)


def _digest(spec: JobSpec) -> str:
    """Return the digest of all that the user agrees to."""
    rest = [spec.deadline_seconds, sorted(spec.labels.items()), spec.idempotency_key, sorted(spec.groups)]
    text = json.dumps([digest_of(spec, spec.workspace), *rest], default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _can_ask(call: Call) -> bool:
    """Whether the client shows forms to its user; one that names no mode shows forms."""
    capabilities = call.context.session.client_capabilities
    offered = None if capabilities is None else capabilities.elicitation
    return offered is not None and (offered.form is not None or offered.url is None)


def _question(kind: Kind, call: Call, spec: JobSpec) -> ElicitRequest:
    own = {each.name for each in kind.parameters}
    given = call.params.arguments or {}
    lines = [f"Start a job of {kind.name}? {kind.description.strip()}", f"in {_shown(spec.workspace)}"]
    lines += [f"{name}: {_shown(value)}" for name, value in given.items() if name in own or name in _FREE]
    if spec.deadline_seconds is not None:
        lines.append(f"for at most {duration(spec.deadline_seconds)}")
    return ElicitRequest(
        params=ElicitRequestFormParams(message="\n".join(lines), requested_schema={"type": "object", "properties": {}})
    )


_FREE: Final = frozenset({"job_id", "prompt"})
"""The arguments of the tools that start a job again."""


def _shown(value: object) -> str:
    """Return a value of a caller on one line, in which no character hides or imitates another part of the question."""
    text = json.dumps(word(value, _MAX_VALUE) if isinstance(value, str) else value, ensure_ascii=False)
    return word("".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in text), 2 * _MAX_VALUE)


async def _answer(call: Call, kind: Kind, question: ElicitRequest) -> ElicitResult:
    """Ask during a call.

    Raises:
        NotConfirmed: the host has refused the question, or there was no answer in time.
    """
    related = ServerMessageMetadata(related_request_id=call.context.request_id)  # over HTTP: on this call's own stream
    try:
        with trio.fail_after(_ANSWER_SECONDS):
            return await call.context.session.send_request(question, ElicitResult, metadata=related)
    except trio.TooSlowError:
        message = f"the user has not answered within {duration(_ANSWER_SECONDS)} whether to start a job of {kind.name}"
        raise NotConfirmed(message, details={"answer": "none"}, retryable=True) from None
    except (MCPError, ValueError) as error:
        message = f"the host has not asked the user whether to start a job of {kind.name}: {error!s:.200}"
        raise NotConfirmed(message, details={"answer": "none"}) from error


def _check(kind: Kind, answer: object) -> None:
    """Raise ``NotConfirmed`` unless the user has agreed."""
    action = answer.action if isinstance(answer, ElicitResult) else "none"
    if action == "accept":
        return
    said = {"decline": "has declined", "cancel": "has closed the question without an answer"}
    message = f"the user {said.get(action, 'has not answered')}: no job of {kind.name} was started"
    raise NotConfirmed(message, details={"answer": action})
