"""``Tasks``: the extension and the middleware that put durable tasks on somebody's MCP server."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar, Unpack, overload

import attrs
import trio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import CallToolRequestParams, CallToolResult, PaginatedRequestParams, RequestParams
from pydantic import Field

from supervisor.errors import SupervisorError
from supervisor.jobs.validation import spec_of
from supervisor.mcp_server.access.principals import PRINCIPAL_LABEL, TOOL_LABEL, scoped_key
from supervisor.mcp_server.tasks import calls, legacy, refusals
from supervisor.mcp_server.tasks.apart import run_apart
from supervisor.mcp_server.tasks.calls import BecameTask, Call
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
"""Says who makes a request: ``None`` is the owner of the state root, who may see everything."""

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
    from mcp.server.request_state import authenticated_principal  # 30 ms of cryptography, which not every server needs

    return authenticated_principal(ctx)


def _declared(ctx: _Context) -> bool:
    capabilities = ctx.session.client_capabilities
    return capabilities is not None and EXTENSION_ID in (capabilities.extensions or {})


def _require_declared(ctx: _Context) -> None:
    if not _declared(ctx):
        raise refusals.missing_capability({"extensions": {EXTENSION_ID: {}}}, f"the extension {EXTENSION_ID}")


def _check_name_header(ctx: _Context, task_id: str, *, required: bool) -> None:
    """Check the header that intermediaries route by; stdio has none."""
    headers = getattr(ctx.request, "headers", None)
    if headers is None:
        return
    held = headers.get(MCP_NAME_HEADER)
    found = decode_header_value(held)
    if found != task_id and (held is not None or required):
        raise refusals.header_mismatch(held, task_id)


@contextlib.contextmanager
def _translated() -> Generator[None]:
    """Turn errors of ours into JSON-RPC errors that say the same."""
    try:
        yield
    except SupervisorError as error:
        raise MCPError(-32603, error.message, error_to_json(error)["error"]) from error


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
        principal: says who makes a request; by default the SDK's authenticated principal.
        supervisor: awaited by each request before tasks are looked at; may raise a
            ``SupervisorError``, which the client is told. ``None`` waits for ``serving``.
        job_tools: names of tools that call ``became`` by themselves.
        render: makes the result of a job the result of its tool.
        name_header_required: refuse, over HTTP, requests about tasks without an ``Mcp-Name`` header,
            as the specification would have it; some clients (FastMCP 4.1 is one) do not send it. One
            that names something else is always refused.
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
    ) -> None:
        """Keep what is given; nothing is opened yet."""
        self._principal = _authenticated if principal is None else principal
        self._opened = supervisor
        self._render = render
        self._name_header_required = name_header_required
        self._tools: dict[str, _Tool] = {}
        self._runtime: Runtime | None = None
        self._ready = trio.Event()
        for name in job_tools:
            self.add_job_tool(name)

    # ------------------------------------------------------------ life

    @contextlib.asynccontextmanager
    async def serving(self, supervisor: Supervisor) -> AsyncGenerator[None]:
        """Serve tasks over an open supervisor, inside of whose block this is entered.

        Requests that came before wait until then. On leaving, jobs run on; functions are stopped,
        and their tasks are recorded as failed.

        Raises:
            StateUnsafe, PermissionDenied, StateFull: the state root cannot be used.
        """
        records = TaskRecords(supervisor.settings.state_dir)
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
        """Say that the tool of this name starts a job and calls ``became``.

        ``required``: a client that knows no tasks is refused.
        """
        self._tools[name] = _Tool("job", required)

    @overload
    def job(self, function: Callable[_P, Awaitable[object]], /) -> Callable[_P, Awaitable[Any]]: ...
    @overload
    def job(
        self,
        /,
        *,
        name: str | None = None,
        required: bool = False,
    ) -> Callable[[Callable[_P, Awaitable[object]]], Callable[_P, Awaitable[Any]]]: ...

    def job(
        self,
        function: Callable[..., Awaitable[Any]] | None = None,
        /,
        *,
        name: str | None = None,
        required: bool = False,
    ) -> Any:
        """Make a tool's function, which starts a job and returns it, one whose call becomes a task.

        Input
            function: an async function that returns a ``Job`` from ``start``, or anything else that
                a tool may return (an error result, an ``InputRequiredResult``), which is passed on.
            name: the tool's name on the server, where it is not the function's.
            required: refuse clients that know no tasks; else those are given the job as it is.
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
        self,
        /,
        *,
        name: str | None = None,
        required: bool = False,
        asks_first: bool = False,
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
        """Make a tool's async function one that goes on as a task after its call was answered.

        Input
            function: any async tool function. What it asks its client for becomes a question of the
                task, its progress the status message.
            name: the tool's name on the server, where it is not the function's.
            required: refuse clients that know no tasks; else those wait for the function.
            asks_first: it may return an ``InputRequiredResult`` before it becomes a task, and says
                itself by ``begin`` when it does.
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
        """Whether the call that is being served is one that is going to be answered with a task."""
        call = calls.current()
        return call is not None and call.as_task

    def became(self, job: Job) -> None:
        """Answer the call that is being served with the task that ``job`` is; return if it wants none.

        Leaves by an ``MCPError`` that the extension turns into the answer: let it pass.
        """
        call = calls.current()
        if call is not None and call.as_task:
            raise BecameTask(task_of(job))

    async def begin(self) -> None:
        """Make the call that is being served a task, and go on; return if it wants none.

        Raises:
            StateFull, PermissionDenied: the task cannot be recorded; there is none.
        """
        call = calls.current()
        if call is not None and call.begin is not None:
            await call.begin()

    async def start(
        self,
        argv: Sequence[str] | JobSpec,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Start a job that belongs to whoever makes the call being served.

        Takes what ``Supervisor.start`` takes and raises what it raises. An idempotency key holds for
        its principal alone.
        """
        runtime = await self._serving()
        call = calls.current()
        principal = None if call is None else call.principal
        spec = spec_of(argv, options)
        ours = {} if call is None else {TOOL_LABEL: call.tool}
        if principal is not None:
            ours[PRINCIPAL_LABEL] = principal
        spec = attrs.evolve(
            spec,
            labels={**spec.labels, **ours},
            idempotency_key=scoped_key(principal, spec.idempotency_key),
        )
        return await runtime.supervisor.start(spec)

    # ------------------------------------------------------------ for the SDK

    def methods(self) -> Sequence[MethodBinding]:
        """Return the methods of both generations."""
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
        self,
        params: CallToolRequestParams,
        ctx: _Context,
        call_next: CallNext,
    ) -> HandlerResult:
        """Serve ``tools/call``: as a task where the tool can be one and the client wants it."""
        tool = self._tools.get(params.name)
        principal = self._principal(ctx)
        if ctx.protocol_version == LEGACY_VERSION:
            wanted, ttl_ms = legacy.requested_ttl(ctx.params)
            if tool is None and wanted:
                raise refusals.no_such_method(ctx.method, f"Tool {params.name!r:.80} cannot be called as a task")
            if tool is not None and tool.required and not wanted:
                raise refusals.no_such_method(ctx.method, f"Tool {params.name!r} can only be called as a task")
        else:
            wanted, ttl_ms = tool is not None and ctx.protocol_version == MODERN_VERSION and _declared(ctx), None
            if tool is not None and tool.required and not wanted:
                _require_declared(ctx)
        call = Call(tool=params.name, principal=principal, as_task=wanted, ttl_ms=ttl_ms)
        if tool is None or not wanted or tool.kind == "job":
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
            raise BecameTask(task)  # its shape would not pass the SDK's check of results; `middleware` answers
        return created_shape(task)

    async def middleware(self, ctx: _Context, call_next: CallNext) -> HandlerResult:
        """Serve what no extension can: task ids in listen filters, and what 2025-11-25 has in its core."""
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
        """Check what every request about a task has to pass."""
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
                message = f"Task {params.task_id} has ended already ({task.status.value})"
                raise refusals.invalid(message)
            return legacy_shape(await runtime.cancel(params.task_id, principal))

    async def _list(self, ctx: _Context, params: PaginatedRequestParams) -> HandlerResult:
        runtime = await self._serving()
        with _translated():
            return await legacy.listed(runtime, self._principal(ctx), params.cursor)

    async def _result(self, ctx: _Context, params: _TaskParams) -> HandlerResult:
        runtime, principal = await self._entered(ctx, params.task_id)
        with _translated():
            return await legacy.payload(ctx, runtime, principal, params.task_id)
