"""What a person sees of a run: a live table on a terminal, one line an event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from components.records import StageRecord

STYLES = {
    "pending": "dim",
    "running": "cyan",
    "complete": "green",
    "cached": "blue",
    "skipped": "dim",
    "refused": "bold yellow",
    "failed": "bold red",
    "interrupted": "red",
}
HEADLINE_WIDTH = 44


class RunView:
    """Shows the stages of one run; a context manager, which draws the table a last time at its end."""

    def __init__(self, console: Console, title: str, stages: Sequence[str], started: float | None = None) -> None:
        self._console = console
        self._title = title
        self._records = {stage: StageRecord(stage=stage) for stage in stages}
        self._notes: dict[str, str] = {}
        self._started = started or time.time()
        self._phase = ""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._start(by_itself=False)
        else:
            self._console.print(self._title, highlight=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._phase = ""
        if self._live:
            self._live.stop()

    def phase(self, text: str) -> None:
        """What goes on besides stages, such as imports; "" when over. During a phase the table draws itself."""
        self._phase = text
        if self._live:
            self._live.transient = True  # the next one draws in its place
            self._live.stop()
            self._start(by_itself=bool(text))
        elif text:
            self._console.print(f"{self._clock()}  {text}", highlight=False)

    def _start(self, *, by_itself: bool) -> None:
        # Between phases stages are forked, and a thread that holds a lock while it draws would leave it locked in the child
        # for ever: there the runner's ticks draw.
        self._live = Live(console=self._console, refresh_per_second=5, get_renderable=self.draw, auto_refresh=by_itself)
        self._live.start(refresh=True)

    def stage(self, record: StageRecord, note: str = "") -> None:
        """Takes a stage's record, or what it reports of its progress."""
        before = self._records.get(record.stage)
        self._records[record.stage] = record
        self._notes[record.stage] = note
        if self._live:
            return
        if note:
            self._line(record.stage, "", note)
        elif record.state != "pending" and (before is None or before.state != record.state):
            self._line(record.stage, record.state, self._said(record))

    def tick(self) -> None:
        """Time passed."""
        if self._live:
            self._live.refresh()

    def _line(self, stage: str, state: str, text: str) -> None:
        after = self._next() if state == "running" else ""
        told = text or (f"then {after}" if after else "")
        self._console.print(f"{self._clock()}  {stage:<15}{state:<12}{told}", highlight=False, soft_wrap=True)

    def _next(self) -> str:
        return next((name for name, record in self._records.items() if record.state == "pending"), "")

    def _clock(self) -> str:
        return f"{time.time() - self._started:6.1f}s"

    def _said(self, record: StageRecord) -> str:
        if record.state in ("failed", "interrupted"):
            return record.error.splitlines()[0] if record.error else ""
        if record.state == "refused" and record.summary.refusal:
            return record.summary.refusal.reasons[0]
        return record.summary.headline

    def draw(self, now: float | None = None) -> Group:
        """The table as it stands, at a moment in seconds since the epoch; None for the present one."""
        now = now or time.time()
        table = Table(box=None, pad_edge=False, show_header=False, expand=False)
        for column in ("stage", "state", "seconds"):
            table.add_column(column, no_wrap=True, justify="right" if column == "seconds" else "left")
        table.add_column("said", no_wrap=True, overflow="ellipsis", max_width=HEADLINE_WIDTH)
        for record in self._records.values():
            style = STYLES[record.state]
            said = self._notes.get(record.stage) or self._said(record)
            table.add_row(Text(record.stage), Text(record.state, style), Text(_seconds(record, now), "dim"), Text(said))
        done = sum(record.state not in ("pending", "running") for record in self._records.values())
        after = self._next()
        foot = f"{done}/{len(self._records)} stages, {now - self._started:.0f} s"
        foot += f", next: {after}" if after else ""
        return Group(Text(self._title, "bold"), table, Text(f"{foot}{'  ' + self._phase if self._phase else ''}", "dim"))


def _seconds(record: StageRecord, now: float) -> str:
    if record.started is None:
        return ""
    return f"{(record.finished or now) - record.started:.1f} s"
