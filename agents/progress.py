"""What a command shows while it works, and Ctrl-C: a table, then a progress bar, or lines without a terminal."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

LINE_EVERY_S = 10.0
"""Seconds between lines where there is no terminal to draw a bar in."""
DRAW_EVERY_S = 0.1
"""Seconds between redraws of a bar that are worth their time."""


def print_table(console: Console, title: str, values: Mapping[str, object], columns: int = 2) -> None:
    """Print names and values, `columns` pairs side by side."""
    table = Table(title=title, title_justify="left", show_header=False, pad_edge=False)
    items = [(name, str(value)) for name, value in values.items()]
    rows = math.ceil(len(items) / columns)
    for row in range(rows):
        cells = []
        for column in range(columns):
            position = column * rows + row
            cells += list(items[position]) if position < len(items) else ["", ""]
        table.add_row(*cells)
    console.print(table)


class ProgressDisplay:
    """A bar with frames/s, return and success; use it as a context manager."""

    def __init__(self, console: Console, total: int, unit: str) -> None:
        self.console, self.total, self.unit = console, total, unit
        self.bar = Progress(
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=total, status="")
        self.last_shown = 0.0

    def __enter__(self) -> ProgressDisplay:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def due(self, last: bool = False) -> bool:
        """Whether `show` would draw anything new; asking first saves a fast loop the status text."""
        interval = DRAW_EVERY_S if self.console.is_terminal else LINE_EVERY_S
        return last or time.monotonic() - self.last_shown >= interval

    def show(self, done: int, status: str, last: bool = False) -> None:
        """Move the bar to `done`; without a terminal print a line now and then."""
        is_due = self.due(last)
        self.bar.update(self.task, completed=min(done, self.total), status=status)
        if is_due:
            self.last_shown = time.monotonic()
        if is_due and not self.console.is_terminal:
            self.console.print(f"{done:,}/{self.total:,} {self.unit}  {status}", soft_wrap=True)


def number(value: float, digits: int = 2) -> str:
    """A number for the status line; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


class StopSignal:
    """Turns the first Ctrl-C (or SIGTERM) into a request to stop after the current update."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.code = 0
        self.say = say
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.code:
            raise KeyboardInterrupt
        self.code = 128 + number
        self.say("Stopping after this update; once more stops at once, without a checkpoint.")
