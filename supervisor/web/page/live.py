"""The overview for all who look at it: taken and rendered once after each change, in a thread of its own.

The thread begins with the first open page, and ends with the last one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from collections.abc import Set as AbstractSet
from typing import Final

import attrs
import trio

from supervisor.errors import SupervisorError
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.overview import Overview, overview_of
from supervisor.jobs.spending_today import SpendingToday
from supervisor.jobs.watching import Source
from supervisor.mcp_server.access.principals import PRINCIPAL_LABEL
from supervisor.settings import Settings
from supervisor.store import Layout
from supervisor.web.page.rendering import Section, attention_in_words, sections_of
from supervisor.web.page.streaming import Json

__all__ = ["Feed", "Live", "Picture", "View", "picture_of"]

_RUNNING: Final = 50
_WAITING: Final = 50
_ENDED: Final = 30
_FAILURES: Final = 20
_GAUGE_SECONDS: Final = 5.0
"""Memory and progress change without an event of the state root."""


@attrs.frozen(slots=True)
class View:
    """For whom an overview is rendered.

    Attributes:
        principal: whose jobs it shows; ``None`` for all.
        may_change: whether it has buttons.
    """

    principal: str | None
    may_change: bool

    @property
    def label(self) -> tuple[str, str] | None:
        """The label of the jobs that it shows."""
        return None if self.principal is None else (PRINCIPAL_LABEL, self.principal)


@attrs.frozen(slots=True)
class Picture:
    """An overview as HTML.

    Attributes:
        sections: its parts.
        news: what needs attention, in a sentence.
        overview: what it shows.
    """

    sections: list[Section]
    news: str
    overview: Overview
    _events: dict[frozenset[str], Json] = attrs.field(factory=dict[frozenset[str], Json], init=False, repr=False)

    def event(self, names: AbstractSet[str]) -> Json:
        """Return these sections and the news for scripts, made once for all pages that lack the same."""
        names = frozenset(names)
        if names not in self._events:
            sections = {each.name: str(each.html) for each in self.sections if each.name in names}
            self._events[names] = Json(json.dumps({"sections": sections, "news": self.news}))
        return self._events[names]


@attrs.frozen(slots=True)
class _Taken:
    pictures: dict[View, Picture]
    directories: tuple[str, ...]


def picture_of(catalog: Catalog, view: View, spending: SpendingToday) -> Picture:
    """Take an overview and render it.

    Raises:
        SupervisorError: the state root cannot be read now.
    """
    overview = overview_of(
        catalog,
        running=_RUNNING,
        waiting=_WAITING,
        ended=_ENDED,
        failures=_FAILURES,
        label=view.label,
        memory=True,
    )
    owner = view.principal is None
    try:
        spent = spending.total(catalog.layout.clock.wall_ns(), view.label)
    except SupervisorError:  # not known now; jobs matter more
        spent = None
    sections = sections_of(overview, spent, may_change=view.may_change, owner=owner)
    return Picture(sections, attention_in_words(overview), overview)


class Feed:
    """The pictures of one view for one open page: always the latest, so a slow reader misses those between."""

    def __init__(self) -> None:
        """Have none yet."""
        self._latest: Picture | SupervisorError | None = None
        self._there = trio.Event()

    def put(self, picture: Picture | SupervisorError) -> None:
        """Replace the picture."""
        self._latest = picture
        self._there.set()

    async def next(self) -> Picture | SupervisorError:
        """Wait for a picture that was not returned yet, or for the error that prevents one."""
        await self._there.wait()
        self._there = trio.Event()
        assert self._latest is not None  # noqa: S101  # it was set before the event
        return self._latest


class Live:
    """Feeds the open pages of one server.

    Args:
        settings: of the state root.

    Attributes:
        spending: what jobs have spent today.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.spending = SpendingToday(Layout(settings.state_dir).root)
        self._feeds: dict[View, set[Feed]] = {}
        self._views: tuple[View, ...] = ()
        self._source: Source[_Taken] | None = None

    @contextlib.asynccontextmanager
    async def feed(self, view: View) -> AsyncGenerator[Feed]:
        """Feed one open page; the first picture is taken at once."""
        made = Feed()
        self._feeds.setdefault(view, set()).add(made)
        self._views = tuple(self._feeds)
        if self._source is None:
            self._start(trio.lowlevel.current_trio_token())
        else:
            self._source.refresh()
        try:
            yield made
        finally:
            feeds = self._feeds[view]
            feeds.discard(made)
            if not feeds:
                del self._feeds[view]
                self._views = tuple(self._feeds)
            if not self._feeds:
                source, self._source = self._source, None
                if source is not None:
                    with trio.CancelScope(shield=True):  # it ends with the overview at hand
                        await trio.to_thread.run_sync(source.stop)

    def _start(self, token: trio.lowlevel.TrioToken) -> None:
        def show(found: _Taken | SupervisorError) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(self._publish, found)

        self._source = Source(self._settings, self._take, show, every=self._every, name="supervisor-page")
        self._source.start()

    def _take(self, catalog: Catalog) -> _Taken:
        pictures = {view: picture_of(catalog, view, self.spending) for view in self._views}
        directories = {each for picture in pictures.values() for each in picture.overview.directories}
        return _Taken(pictures, tuple(sorted(directories)))

    @staticmethod
    def _every(taken: _Taken) -> float | None:
        return _GAUGE_SECONDS if any(picture.overview.running for picture in taken.pictures.values()) else None

    def _publish(self, found: _Taken | SupervisorError) -> None:
        for view, feeds in self._feeds.items():
            picture = found if isinstance(found, SupervisorError) else found.pictures.get(view)
            if picture is not None:
                for feed in feeds:
                    feed.put(picture)
