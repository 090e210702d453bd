"""The parameters of the methods of the events extension."""

from __future__ import annotations

from typing import Any

from mcp_types import RequestParams

__all__ = ["ListParams", "PollParams", "SubscribeParams", "UnsubscribeParams"]


class ListParams(RequestParams):
    """Those of ``events/list``."""

    cursor: str | None = None


class PollParams(RequestParams):
    """Those of ``events/poll`` and ``events/stream``."""

    name: str
    arguments: dict[str, Any] | None = None
    cursor: str | None = None
    max_age_ms: int | None = None
    max_events: int | None = None


class SubscribeParams(RequestParams):
    """Those of ``events/subscribe``. ``delivery`` is checked by hand: an error must not have its secret."""

    name: str
    arguments: dict[str, Any] | None = None
    delivery: Any = None
    cursor: str | None = None
    max_age_ms: int | None = None
    ttl_ms: int | None = None


class UnsubscribeParams(RequestParams):
    """Those of ``events/unsubscribe``."""

    name: str
    arguments: dict[str, Any] | None = None
    delivery: Any = None
