"""``Tasks``: the extension and the middleware that add durable tasks to an MCP server."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, Protocol, TypeVar, Unpack, overload

import attrs
import trio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    CallToolRequestParams,
    CallToolResult,
    PaginatedRequestParams,
    RequestParams,
)
from pydantic import Field

from supervisor.errors import SupervisorError
from supervisor.jobdir.durability import POWER
from supervisor.jobs.validation import spec_of
from supervisor.mcp_server.access.principals import TOOL_LABEL, own_labels, scoped_key
from supervisor.mcp_server.tasks import calls, legacy, refusals
from supervisor.mcp_server.tasks.apart import run_apart
from supervisor.mcp_server.tasks.calls import BecameTask, TaskCall
from supervisor.mcp_server.tasks.functions import FunctionTask
from supervisor.mcp_server.tasks.jobs import Render, handle, render_result, task_of
from supervisor.mcp_server.tasks.listening import listen, task_ids
from supervisor.mcp_server.tasks.records import TaskRecords
from supervisor.mcp_server.tasks.runtime import Runtime
from supervisor.mcp_server.tasks.state import (
    EXTENSION_ID,
    LEGACY_VERSION,
    MODERN_VERSION,
    created_shape,
    legacy_shape,
    shape,
)
from supervisor.model import Job, JobOptions, JobSpec, error_to_json

if TYPE_CHECKING:
    from supervisor.runtime.supervisor import Supervisor

__all__ = ["Principal", "Tasks"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Context = ServerRequestContext[Any, Any]
Principal = Callable[[_Context], str | None]
"""Returns the principal of a request; ``None`` is the owner of the state root, who may access every job."""

Source = Callable[[str], Mapping[str, Any]]
"""Returns ``eventSource`` of the task with an id."""


class EventSource(Protocol):
    """Where clients get the events of a task."""

    async def source(self, ctx: _Context, /) -> Source | None:
        """Return that of a task which is about to be made; ``None`` if its client does not support events."""
        ...


_BOTH: Final = frozenset({LEGACY_VERSION, MODERN_VERSION})


class _TaskParams(RequestParams):
    task_id: str


class _UpdateParams(RequestParams):
    task_id: str
    input_responses: dict[str, Any] = Field(default_factory=dict[str, Any])


@attrs.frozen
class _Tool:
    kind: Literal["job", "function"]
    required: bool


def _authenticated(ctx: _Context) -> str | None:
    from mcp.server.request_state import authenticated_principal  # it imports cryptography, which takes 30 ms

    return authenticated_principal(ctx)


def _declared(ctx: _Context) -> bool:
    capabilities = ctx.session.client_capabilities
    return capabilities is not None and EXTENSION_ID in (capabilities.extensions or {})


def _require_declared(ctx: _Context) -> None:
    if not _declared(ctx):
        raise refusals.missing_capability({"extensions": {EXTENSION_ID: {}}}, f"the extension {EXTENSION_ID}")


def _check_name_header(ctx: _Context, task_id: str, *, required: bool) -> None:
    """Check the header by which intermediaries route; stdio has none."""
    headers = getattr(ctx.request, "headers", None)
    if headers is None:
        return
    given = headers.get(MCP_NAME_HEADER)
    if decode_header_value(given) != task_id and (given is not None or required):
        value = "is missing" if given is None else f"is {given!r:.80}"
        message = f"The Mcp-Name header {value}; it must be the task id {task_id!r:.80}"
        raise MCPError(HEADER_MISMATCH, message)


@contextlib.contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except SupervisorError as error:
        raise MCPError(INTERNAL_ERROR, error.message, error_to_json(error)["error"]) from error


class Tasks(Extension):
    """Durable tasks for the tools of an MCP server, for clients of 2026-07-28 and of 2025-11-25.

    ::

        tasks = Tasks()
        server = MCPServer("builds", extensions=[tasks], middleware=[tasks.middleware])

        @server.tool()
        @tasks.job
        async def build(target: str) -> Job:
            return await tasks.start(["make", target])

        async with open_supervisor() as sup, tasks.serving(sup):
            ...  # serve

    Args:
        principal: returns the principal of a request; by default the SDK's authenticated principal.
        supervisor: awaited by each request about tasks; may raise a ``SupervisorError``, which the client
            gets. ``None`` waits for ``serving``.
        job_tools: names of tools that call ``became`` themselves.
        render: turns the result of a job into the result of its tool.
        name_header_required: refuse requests about tasks over HTTP without an ``Mcp-Name`` header, as the
            specification demands; some clients (FastMCP 4.1 for instance) do not send it. A header that
            names something else is always refused.
        events: says where clients get the events of a job task (``eventSource``, a draft).
    """

    identifier = EXTENSION_ID

    def __init__(
        self,
        *,
        principal: Principal | None = None,
        supervisor: Callable[[], Awaitable[Supervisor]] | None = None,
        job_tools: Collection[str] = (),
        render: Render = render_result,
        name_header_required: bool = False,
        events: EventSource | None = None,
    ) -> None:
        self._principal = _authenticated if principal is None else principal
        self._opened = supervisor
        self._render = render
        self._name_header_required = name_header_required
        self._events = events
        self._tools: dict[str, _Tool] = {}
        self._runtime: Runtime | None = None
        self._ready = trio.Event()
        for name in job_tools:
            self.add_job_tool(name)

    # ------------------------------------------------------------ serving

    @contextlib.asynccontextmanager
    async def serving(self, supervisor: Supervisor) -> AsyncGenerator[None]:
        """Serve tasks over an open supervisor. Enter this inside of the supervisor's block.

        Earlier requests wait until then. On leaving, jobs run on. Functions are stopped, and their tasks
        are recorded as failed.

        Raises:
            StateUnsafe, PermissionDenied, StateFull: the state root cannot be used.
        """
        settings = supervisor.settings
        records = TaskRecords(settings.state_dir, durable=settings.durability == POWER)
        raised: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                runtime = self._runtime = Runtime(supervisor, nursery, records, self._render)
                self._ready.set()
                nursery.start_soon(runtime.expire)
                try:
                    yield
                except BaseException as error:
                    raised = error
                    raise
                finally:
                    self._runtime, self._ready = None, trio.Event()
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if raised is not None and group.exceptions == (raised,):
                raise raised from raised.__cause__
            raise
        finally:
            records.close()

    async def _serving(self) -> Runtime:
        if self._opened is not None:
            with _translated():
                await self._opened()
        while self._runtime is None:
            await self._ready.wait()
        return self._runtime

    # ------------------------------------------------------------ tools

    def add_job_tool(self, name: str, *, required: bool = False) -> None:
        """Register a tool that starts a job and calls ``became``.

        ``required``: clients that do not support tasks are refused.
        """
        self._tools[name] = _Tool("job", required)

    @overload
    def job(self, function: Callable[_P, Awaitable[object]], /) -> Callable[_P, Awaitable[Any]]: ...
    @overload
    def job(
        self, /, *, name: str | None = None, required: bool = False
    ) -> Callable[[Callable[_P, Awaitable[object]]], Callable[_P, Awaitable[Any]]]: ...

    def job(
        self,
        function: Callable[..., Awaitable[Any]] | None = None,
        /,
        *,
        name: str | None = None,
        required: bool = False,
    ) -> Any:
        """Decorate a tool's function that starts a job and returns it: its calls become tasks.

        Input
            function: an async function that returns a ``Job`` from ``start``, or anything else that
                a tool may return (an error result, an ``InputRequiredResult``), which is passed on.
            name: the tool's name on the server, if it differs from the function's.
            required: refuse clients that do not support tasks; otherwise those get the current job.
        """
        if function is None:
            return functools.partial(self.job, name=name, required=required)
        inner = function
        self.add_job_tool(name or inner.__name__, required=required)

        @functools.wraps(inner)
        async def call(*args: Any, **kwargs: Any) -> Any:
            given = await inner(*args, **kwargs)
            if not isinstance(given, Job):
                return given
            self.became(given)
            return handle(given)

        signature = inspect.signature(inner, eval_str=True)
        if signature.return_annotation is Job:
            call.__signature__ = signature.replace(return_annotation=CallToolResult)  # type: ignore[attr-defined]
        return call

    @overload
    def function(self, function: Callable[_P, Awaitable[_T]], /) -> Callable[_P, Awaitable[_T]]: ...
    @overload
    def function(
        self, /, *, name: str | None = None, required: bool = False, asks_first: bool = False
    ) -> Callable[[Callable[_P, Awaitable[_T]]], Callable[_P, Awaitable[_T]]]: ...

    def function(
        self,
        function: Callable[..., Awaitable[Any]] | None = None,
        /,
        *,
        name: str | None = None,
        required: bool = False,
        asks_first: bool = False,
    ) -> Any:
        """Decorate a tool's async function: it runs on as a task after its call was answered.

        Input
            function: any async tool function. Its requests to the client become questions of the task,
                and its progress becomes the status message.
            name: the tool's name on the server, if it differs from the function's.
            required: refuse clients that do not support tasks; otherwise those wait for the function.
            asks_first: whether it may return an ``InputRequiredResult`` before it becomes a task. It must
                then call ``begin`` itself.
        """
        if function is None:
            return functools.partial(self.function, name=name, required=required, asks_first=asks_first)
        inner = function
        self._tools[name or inner.__name__] = _Tool("function", required)

        @functools.wraps(inner)
        async def call(*args: Any, **kwargs: Any) -> Any:
            if not asks_first:
                await self.begin()
            return await inner(*args, **kwargs)

        return call

    # ------------------------------------------------------------ within a call

    def wants_task(self) -> bool:
        """Whether the answer of the current call will be a task."""
        call = calls.current()
        return call is not None and call.as_task

    def became(self, job: Job) -> None:
        """Answer the current call with ``job`` as a task; return if the client wants no task.

        Raises an ``MCPError`` that the extension turns into the answer: do not catch it.
        """
        call = calls.current()
        if call is not None and call.as_task:
            raise BecameTask(task_of(job))

    async def begin(self) -> None:
        """Make the current call a task, and run on; return if the client wants no task.

        Raises:
            StateFull, PermissionDenied: the task cannot be recorded, and does not exist.
        """
        call = calls.current()
        if call is not None and call.begin is not None:
            await call.begin()

    async def start(
        self,
        argv: Sequence[str] | JobSpec,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Start a job that belongs to the principal of the current call.

        The arguments and errors are those of ``Supervisor.start``. Each principal has its own
        idempotency keys.
        """
        runtime = await self._serving()
        call = calls.current()
        principal = None if call is None else call.principal
        spec = spec_of(argv, options)
        reserved = ({} if call is None else {TOOL_LABEL: call.tool}) | own_labels(principal)
        spec = attrs.evolve(
            spec, labels={**spec.labels, **reserved}, idempotency_key=scoped_key(principal, spec.idempotency_key)
        )
        return await runtime.supervisor.start(spec)

    # ------------------------------------------------------------ for the SDK

    def methods(self) -> Sequence[MethodBinding]:
        """Return the methods of both protocol versions."""
        old = frozenset({LEGACY_VERSION})
        new = frozenset({MODERN_VERSION})
        return (
            MethodBinding("tasks/get", _TaskParams, self._get, _BOTH),
            MethodBinding("tasks/cancel", _TaskParams, self._cancel, _BOTH),
            MethodBinding("tasks/update", _UpdateParams, self._update, new),
            MethodBinding("tasks/list", PaginatedRequestParams, self._list, old),
            MethodBinding("tasks/result", _TaskParams, self._result, old),
        )

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: _Context, call_next: CallNext
    ) -> HandlerResult:
        """Serve ``tools/call``: as a task if the tool supports it and the client wants it."""
        tool = self._tools.get(params.name)
        principal = self._principal(ctx)
        if ctx.protocol_version == LEGACY_VERSION:
            wanted, ttl_ms = legacy.requested_ttl(ctx.params)
            if tool is None and wanted:
                message = f"Tool {params.name!r:.80} cannot be called as a task"
                raise MCPError(METHOD_NOT_FOUND, message, ctx.method)
            if tool is not None and tool.required and not wanted:
                message = f"Tool {params.name!r} can only be called as a task"
                raise MCPError(METHOD_NOT_FOUND, message, ctx.method)
        else:
            wanted, ttl_ms = tool is not None and ctx.protocol_version == MODERN_VERSION and _declared(ctx), None
            if tool is not None and tool.required and not wanted:
                _require_declared(ctx)
        call = TaskCall(tool=params.name, principal=principal, as_task=wanted, ttl_ms=ttl_ms)
        source: Source | None = None
        if tool is None or not wanted or tool.kind == "job":
            if wanted and self._events is not None and ctx.protocol_version == MODERN_VERSION:
                with _translated():
                    source = await self._events.source(ctx)
            try:
                with calls.serving(call):
                    return await call_next(ctx)
            except BecameTask as became:
                task = became.task
        else:
            outcome = await run_apart(await self._serving(), call, ctx, call_next)
            if not isinstance(outcome, FunctionTask):
                return outcome
            task = outcome.task()
        if ctx.protocol_version == LEGACY_VERSION:
            raise BecameTask(task)  # the SDK's check of results would refuse its JSON, so `middleware` answers
        created = created_shape(task)
        return created if source is None else {**created, "eventSource": source(task.task_id)}

    async def middleware(self, ctx: _Context, call_next: CallNext) -> HandlerResult:
        """Serve what an extension cannot: task ids in listen filters, and the tasks of 2025-11-25."""
        if ctx.method == "initialize":
            return legacy.capable(await call_next(ctx))
        if ctx.protocol_version == LEGACY_VERSION and ctx.request_id is not None:
            if ctx.method == "tools/list":
                support = {name: "required" if tool.required else "optional" for name, tool in self._tools.items()}
                return legacy.with_support(await call_next(ctx), support)
            if ctx.method == "tools/call":
                try:
                    return await call_next(ctx)
                except BecameTask as became:
                    return legacy.created(became.task)
        elif ctx.method == "subscriptions/listen" and ctx.protocol_version == MODERN_VERSION:
            wanted = task_ids(ctx.params)
            if wanted is not None:
                _require_declared(ctx)
                runtime = await self._serving()
                return await listen(ctx, call_next, runtime, self._principal(ctx), wanted)
        return await call_next(ctx)

    # ------------------------------------------------------------ methods

    async def _entered(self, ctx: _Context, task_id: str) -> tuple[Runtime, str | None]:
        """Check a request about a task; return the runtime and the principal."""
        if ctx.protocol_version == MODERN_VERSION:
            _check_name_header(ctx, task_id, required=self._name_header_required)
            _require_declared(ctx)
        return await self._serving(), self._principal(ctx)

    async def _get(self, ctx: _Context, params: _TaskParams) -> HandlerResult:
        runtime, principal = await self._entered(ctx, params.task_id)
        with _translated():
            task = await runtime.get(params.task_id, principal)
        return shape(task) if ctx.protocol_version == MODERN_VERSION else legacy_shape(task)

    async def _update(self, ctx: _Context, params: _UpdateParams) -> HandlerResult:
        runtime, principal = await self._entered(ctx, params.task_id)
        with _translated():
            await runtime.update(params.task_id, principal, params.input_responses)
        return {}

    async def _cancel(self, ctx: _Context, params: _TaskParams) -> HandlerResult:
        runtime, principal = await self._entered(ctx, params.task_id)
        with _translated():
            if ctx.protocol_version == MODERN_VERSION:
                await runtime.cancel(params.task_id, principal)
                return {}
            task = await runtime.get(params.task_id, principal)
            if task.status.terminal:
                raise MCPError(INVALID_PARAMS, f"Task {params.task_id} has ended already ({task.status.value})")
            return legacy_shape(await runtime.cancel(params.task_id, principal))

    async def _list(self, ctx: _Context, params: PaginatedRequestParams) -> HandlerResult:
        runtime = await self._serving()
        with _translated():
            return await legacy.listed(runtime, self._principal(ctx), params.cursor)

    async def _result(self, ctx: _Context, params: _TaskParams) -> HandlerResult:
        runtime, principal = await self._entered(ctx, params.task_id)
        with _translated():
            return await legacy.payload(ctx, runtime, principal, params.task_id)
