"""What a command shows while it works, and the signals that it heeds.

On a terminal a table, then a bar; elsewhere plain lines, whole, whatever FORCE_COLOR says. Names are printed as
they are: square brackets in them are no markup.
"""

from __future__ import annotations

import math
import os
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


def make_console(quiet: bool = False) -> Console:
    """The console of a command."""
    return Console(soft_wrap=True, markup=False, emoji=False, highlight=False, quiet=quiet)


def draws(console: Console) -> bool:
    """Whether there is a terminal on which something can be drawn again and again."""
    return console.is_terminal and console.file.isatty() and not console.is_dumb_terminal


def print_table(console: Console, title: str, values: Mapping[str, object], columns: int = 2) -> None:
    """Print names and values, `columns` pairs side by side; one per line where there is no terminal."""
    if not draws(console):
        console.print(f"{title}:")
        for name, value in values.items():
            console.print(f"  {name}: {value}")
        return
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
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit, markup=False),
            BarColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            disable=not draws(console),
        )
        self.draws = draws(console)
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
        interval = DRAW_EVERY_S if self.draws else LINE_EVERY_S
        return last or time.monotonic() - self.last_shown >= interval

    def show(self, done: int, status: str, last: bool = False) -> None:
        """Move the bar to `done`; without a terminal print a line now and then."""
        is_due = self.due(last)
        self.bar.update(self.task, completed=min(done, self.total), status=status)
        if is_due:
            self.last_shown = time.monotonic()
        if is_due and not self.draws:
            self.console.print(f"{done:,}/{self.total:,} {self.unit}  {status}", soft_wrap=True)


def number(value: float, digits: int = 2) -> str:
    """A number for the status line; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


class StopSignal:
    """What the system asks of a running command, taken note of and done after the current update.

    SIGINT (Ctrl-C), SIGTERM, SIGHUP   save and stop; the second one stops at once
    SIGUSR1                            save and go on, as cluster schedulers ask
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.code = 0
        self.say = say
        self._save = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup wants it ignored
            signal.signal(signal.SIGHUP, self._hang_up)
        signal.signal(signal.SIGUSR1, self._ask)

    def save_asked(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        asked, self._save = self._save, False
        return asked

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.code:
            raise KeyboardInterrupt
        self.code = 128 + number
        self.say("Stopping after this update; once more stops at once, without a checkpoint.")

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        """The terminal may be gone: whatever would be shown there goes nowhere, instead of failing."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            if os.isatty(stream):
                os.dup2(nowhere, stream)
        os.close(nowhere)
        self.code = self.code or 128 + number

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._save = True
