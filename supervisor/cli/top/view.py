"""The live view on a terminal, made with Textual."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from types import FrameType
from typing import ClassVar, Final, Literal, TypeAlias

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.geometry import Region, Size
from textual.screen import ModalScreen
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Footer, Static

from supervisor.cli import text
from supervisor.cli.front import silence
from supervisor.cli.top.lines import Line, group_lines, job_lines, summary, take
from supervisor.errors import SupervisorError
from supervisor.jobs import places
from supervisor.jobs.catalog import Catalog
from supervisor.jobs.overview import Overview
from supervisor.jobs.watching import Source
from supervisor.model import Job
from supervisor.settings import Settings

__all__ = ["View"]

_MAX_GROUPS: Final = 8
_LAST_LINES: Final = "1000"
_TICK_SECONDS: Final = 1.0
"""How often the times of running jobs are drawn again."""
_SELECTED: Final = Style(reverse=True)

Action: TypeAlias = Callable[[Catalog], str]
"""Does something, and returns what to say of it."""


def _take_no_notice(_: int, __: FrameType | None) -> None:
    """Handle a signal that is for a child process."""


class JobLines(ScrollView, can_focus=True):
    """The lines of the jobs, of which one is selected. It draws only the lines that can be seen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "select(-1)", "Up", show=False),
        Binding("down,j", "select(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,g", "end(-1)", "First", show=False),
        Binding("end,G", "end(1)", "Last", show=False),
    ]

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._renderer = console
        self._lines: list[Line] = []
        self._selected = 0

    @property
    def job(self) -> Job | None:
        """The selected job."""
        return self._lines[self._selected].job if self._selected < len(self._lines) else None

    def show(self, lines: list[Line]) -> None:
        """Show other lines; the selected job stays selected as long as it is shown."""
        before = self.job
        self._lines = lines
        numbers = [number for number, line in enumerate(lines) if line.job is not None]
        same = [n for n in numbers if before is not None and (job := lines[n].job) and job.job_id == before.job_id]
        near = min(numbers, key=lambda number: abs(number - self._selected), default=0)
        self._selected = same[0] if same else near
        self.virtual_size = Size(self.size.width, len(lines))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return one line of the widget."""
        number = y + self.scroll_offset.y
        if number >= len(self._lines):
            return Strip.blank(self.size.width)
        line = self._lines[number]
        found = Text.from_ansi(line.text)
        if line.job is None:
            found.stylize("bold dim")
        segments = [segment for segment in found.render(self._renderer) if segment.text != "\n"]
        strip = Strip(segments).adjust_cell_length(self.size.width)
        if number == self._selected and line.job is not None:
            return Strip([Segment(each.text, (each.style or Style()) + _SELECTED) for each in strip])
        return strip

    def action_select(self, step: int) -> None:
        """Select the next job, or the one before."""
        number = self._selected + step
        while 0 <= number < len(self._lines) and self._lines[number].job is None:
            number += step
        if 0 <= number < len(self._lines):
            self._go_to(number)
        elif step < 0:
            self.scroll_home(animate=False)  # the heading above the first job

    def action_page(self, direction: int) -> None:
        """Select a job on the next page, or on the one before."""
        for _ in range(max(1, self.size.height - 1)):
            self.action_select(direction)

    def action_end(self, direction: int) -> None:
        """Select the first or the last job."""
        numbers = [number for number, line in enumerate(self._lines) if line.job is not None]
        if numbers:
            self._go_to(numbers[0 if direction < 0 else -1])
        if direction < 0:
            self.scroll_home(animate=False)

    def _go_to(self, number: int) -> None:
        self._selected = number
        self.scroll_to_region(Region(0, number, self.size.width, 1), animate=False)
        self.refresh()


class Question(ModalScreen[bool]):
    """Asks whether to do something."""

    CSS = """
    Question { align: center middle; }
    Question > Static { width: auto; max-width: 90%; height: auto; padding: 1 2; border: round $warning; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,Y", "answer(True)", "Yes"),
        Binding("n,N,escape,q", "answer(False)", "No"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """Make the box."""
        yield Static(Text(f"{self._question}\n\n[y] yes   [n] no"))

    def action_answer(self, answer: bool) -> None:  # noqa: FBT001  # called by the library
        """Close the box."""
        self.dismiss(answer)


class View(App[None]):
    """The application.

    Args:
        settings: of the state root.
    """

    TITLE = "supervisor top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { background: ansi_default; }
    #head { height: 1; text-style: bold; }
    #groups { height: auto; padding-bottom: 1; }
    #heads { height: 1; }
    #problem { height: auto; color: red; display: none; }
    JobLines { height: 1fr; background: ansi_default; scrollbar-size-vertical: 1; overflow-x: hidden; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "cancel_job", "Cancel"),
        Binding("h", "hold_job", "Hold/release"),
        Binding("f,enter", "follow_job", "Follow", key_display="f"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, settings: Settings) -> None:
        super().__init__(ansi_color=True)
        self._settings = settings
        self._overview: Overview | None = None
        self._source = Source(settings, take, self._receive, name="supervisor-top")
        self._loop: asyncio.AbstractEventLoop | None = None

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield Static(id="head")
        yield Static(id="problem")
        yield Static(id="groups")
        yield Static(id="heads")
        yield JobLines(self.console)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to watch the state root."""
        silence()
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self.exit)
        # The terminal is gone: there is nothing to restore, and a write to it would block the library for ever.
        self._loop.add_signal_handler(signal.SIGHUP, os._exit, 128 + signal.SIGHUP)
        self.query_one(JobLines).focus()
        self._source.start()
        self.set_interval(_TICK_SECONDS, self._draw)

    def on_unmount(self) -> None:
        """Stop watching."""
        self._source.stop()

    def on_resize(self, _: Resize) -> None:
        """Fit the lines to the new width."""
        self.call_after_refresh(self._draw)

    def _receive(self, found: Overview | SupervisorError) -> None:
        """Pass an overview to the event loop; called in the thread of the source."""
        assert self._loop is not None  # noqa: S101  # it was there before the thread
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, found)

    def _take(self, found: Overview | SupervisorError) -> None:
        problem = self.query_one("#problem", Static)
        if isinstance(found, SupervisorError):
            problem.update(Text(text.one_line(f"{found.message}  {found.repair}")))
        else:
            self._overview = found
        problem.display = isinstance(found, SupervisorError)
        self._draw()

    def _draw(self) -> None:
        overview = self._overview
        if overview is None or not self.is_running:
            return
        now = datetime.now(UTC)
        where = text.one_line(os.fspath(self._settings.state_dir))
        self.query_one("#head", Static).update(
            Text(f"{now.astimezone():%H:%M:%S}  {summary(overview)}  {where}", no_wrap=True, overflow="ellipsis")
        )
        lines = self.query_one(JobLines)
        width = lines.size.width - 1  # of the scroll bar
        groups = group_lines(overview.groups[:_MAX_GROUPS], width)
        if len(overview.groups) > _MAX_GROUPS:
            groups.append(f"and {len(overview.groups) - _MAX_GROUPS} more: supervisor group list")
        shown = self.query_one("#groups", Static)
        shown.display = bool(groups)
        shown.update(Text.from_ansi("\n".join(groups)))
        heads, jobs = job_lines(overview, width, now)
        self.query_one("#heads", Static).update(Text.from_ansi(heads if jobs else "There are no jobs."))
        lines.show(jobs)

    # ------------------------------------------------------------ keys

    def _selected(self) -> Job | None:
        return self.query_one(JobLines).job

    def action_cancel_job(self) -> None:
        """Cancel the selected job, once that is confirmed."""
        job = self._selected()
        if job is None:
            return
        if job.status.terminal:
            self._say(f"Job {job.job_id[:8]} has ended.", "warning")
            return

        def cancel(catalog: Catalog) -> str:
            (end,) = catalog.cancel_all([job.job_id])
            if isinstance(end, SupervisorError):
                raise end
            return f"Job {job.job_id[:8]}: {text.outcome(end)}."

        def answered(answer: bool | None) -> None:  # noqa: FBT001  # called by the library
            if answer:
                self._say(f"Job {job.job_id[:8]} is being stopped.")
                self._do(cancel)

        self.push_screen(Question(f"Stop job {job.job_id[:8]}: {text.command_line(job.argv)[:200]}?"), answered)

    def action_hold_job(self) -> None:
        """Hold the selected job, or release it."""
        job = self._selected()
        if job is None:
            return
        change, done = (places.release, "released") if job.queue_reason == "held" else (places.hold, "held")

        def hold(catalog: Catalog) -> str:
            change(catalog, job.job_id)
            return f"Job {job.job_id[:8]} is {done}."

        self._do(hold)

    @work(thread=True)
    def _do(self, action: Action) -> None:
        """Do something about a job in a thread: it may take as long as the grace of the job."""
        try:
            with Catalog(self._settings, create=False, launches_waiting=True) as catalog:
                said, severity = action(catalog), "information"
        except SupervisorError as error:
            said, severity = f"{error.message}. {error.repair}", "error"
        self.call_from_thread(self._say, said, severity)
        self._source.refresh()

    def _say(self, said: str, severity: Literal["information", "warning", "error"] = "information") -> None:
        self.notify(text.one_line(said), severity=severity, markup=False)

    def action_follow_job(self) -> None:
        """Leave the view, show the output of the selected job until it ends or Ctrl-C is typed, and return."""
        job = self._selected()
        if job is None:
            return
        root = os.fspath(self._settings.state_dir)
        argv = [sys.executable, "-m", "supervisor", "--state-dir", root, "logs", "--all", "--follow"]
        argv += ["--lines", _LAST_LINES, job.job_id]
        with self.suspend():
            # The command gets Ctrl-C, and this process takes it for nothing; an ignored signal would stay ignored.
            former = signal.signal(signal.SIGINT, _take_no_notice)
            try:
                sys.stdout.write(f"\x1b[2J\x1b[H$ supervisor logs --all --follow {job.job_id}    (Ctrl-C ends this)\n")
                sys.stdout.flush()
                subprocess.run(argv, check=False)
                sys.stdout.write("\nPress Enter to return.")
                sys.stdout.flush()
                sys.stdin.readline()
            finally:
                signal.signal(signal.SIGINT, former)
        self.refresh()
