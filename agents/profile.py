"""Where the time goes: named regions, timed only while a stopwatch runs; the table of `train_rl.py --profile`.

with region("backward"):            in the code: costs nothing while no stopwatch runs
    loss.backward()

with Stopwatch() as stopwatch: ...  elsewhere: stopwatch.seconds["backward"]
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from agents.files import write_text

PHASES = ("act", "env", "learn")
PARTS = ("encoder", "core forward", "losses", "backward", "optimizer")
"""Of learn; the encoder and core of acting are in act."""

_running: list[Stopwatch] = []


class Stopwatch:
    """Adds up the seconds of every region entered while it runs, by name; a context that may be entered again.

    With `wait`, each region of a run on CUDA ends when the device has done its work, which slows the run a little.
    """

    def __init__(self, wait: bool = False) -> None:
        self.wait = wait and torch.cuda.is_available()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __enter__(self) -> Stopwatch:
        _running.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _running.remove(self)


def region(name: str) -> AbstractContextManager[None]:
    """The block under it counts as `name`, in the manner of torch.profiler.record_function."""
    return _timed(name) if _running else nullcontext()


@contextmanager
def _timed(name: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        if any(stopwatch.wait for stopwatch in _running):
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        for stopwatch in _running:
            stopwatch.seconds[name] += seconds


class Row(NamedTuple):
    """One line of the table."""

    phase: str
    seconds: float
    share: float
    """Of the whole run."""
    frames_per_s: float
    """If this phase were all there is."""


class Profile(Stopwatch):
    """The regions of a training run, from entering to leaving."""

    def __init__(self) -> None:
        super().__init__(wait=True)
        self.total = 0.0

    def __enter__(self) -> Profile:
        super().__enter__()
        self.begun = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.total += time.perf_counter() - self.begun
        super().__exit__(*error)

    def rows(self, frames: int) -> list[Row]:
        """The whole run of `frames` frames, its phases, and the parts of learning, each with what is left over."""
        spent = self.seconds
        lines = {phase: spent[phase] for phase in PHASES}
        lines |= {f"learn: {part}": spent[part] for part in PARTS}
        lines["learn: other"] = spent["learn"] - sum(spent[part] for part in PARTS)
        lines["other"] = self.total - sum(spent[phase] for phase in PHASES)
        lines["all"] = self.total
        return [Row(name, s, s / self.total, frames / s if s > 0.0 else 0.0) for name, s in lines.items()]

    def report(self, frames: int, console: Console, path: Path) -> None:
        """Print the table and write it to `path` as CSV."""
        table = Table(title="Where the time went", title_justify="left", pad_edge=False)
        table.add_column("phase")
        for name in ("seconds", "share", "frames/s"):
            table.add_column(name, justify="right")
        lines = ["phase,seconds,share,frames_per_s"]
        for row in self.rows(frames):
            rate = f"{row.frames_per_s:,.0f}" if row.frames_per_s else "-"
            table.add_row(
                row.phase.replace("learn: ", "  "), f"{row.seconds:.2f}", f"{100 * row.share:.1f}%", rate
            )
            lines.append(f"{row.phase},{row.seconds:.4f},{row.share:.4f},{row.frames_per_s:.0f}")
        console.print(table)
        write_text(path, "\n".join(lines) + "\n")
