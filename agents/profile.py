"""Where the time of a training run goes: `train_rl.py --profile`.

The profile replaces a few methods of ONE trainer by timed ones, so that a run without it does not pay for it. The
clock is the one on the wall; on CUDA every timed method waits for the device, which slows the run a little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from agents.files import write_text
from agents.trainer import Trainer

PHASES = ("act", "env", "learn")
PARTS = ("encoder", "core forward", "losses", "backward", "optimiser")
"""Of learn; the encoder and core of acting are in act."""


class Row(NamedTuple):
    """One line of the table."""

    phase: str
    seconds: float
    share: float
    """Of the whole run."""
    frames_per_s: float
    """If this phase were all there is."""


class Profile:
    """Measures from its making to `rows`."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.seconds = dict.fromkeys((*PHASES, *PARTS), 0.0)
        self.begun, self.frames_before = time.perf_counter(), trainer.collector.frames
        model, learner, collector = trainer.model, trainer.learner, trainer.collector
        for owner, method, phase in (
            (collector, "_timed_act", "act"),
            (collector.env, "step", "env"),
            (learner, "update", "learn"),
            (model.encoder, "forward", "encoder"),
            (model.core, "unroll", "core forward"),
            (learner, "_loss_terms", "losses"),
            (learner, "_log", "losses"),
            (learner, "_differentiate", "backward"),
            (learner.optimizer, "step", "optimiser"),
        ):
            setattr(owner, method, self._timed(getattr(owner, method), phase))

    def _timed(self, method: Callable[..., Any], phase: str) -> Callable[..., Any]:
        on_cuda = self.trainer.collector.device.type == "cuda"

        def timed(*args: Any, **kwargs: Any) -> Any:
            if phase in PARTS and not torch.is_grad_enabled():
                return method(*args, **kwargs)
            started = time.perf_counter()
            result = method(*args, **kwargs)
            if on_cuda:
                torch.cuda.synchronize()
            self.seconds[phase] += time.perf_counter() - started
            return result

        return timed

    def rows(self) -> list[Row]:
        """The whole run, its phases, and the parts of learning, each with what is left over."""
        total = time.perf_counter() - self.begun
        frames = self.trainer.collector.frames - self.frames_before
        spent = self.seconds
        lines = {phase: spent[phase] for phase in PHASES}
        lines |= {f"learn: {part}": spent[part] for part in PARTS}
        lines["learn: other"] = spent["learn"] - sum(spent[part] for part in PARTS)
        lines["other"] = total - sum(spent[phase] for phase in PHASES)
        lines["all"] = total
        return [Row(name, s, s / total, frames / s if s > 0.0 else 0.0) for name, s in lines.items()]

    def report(self, console: Console) -> None:
        """Print the table and write profile.csv into the run directory."""
        rows = self.rows()
        table = Table(title="Where the time went", title_justify="left", pad_edge=False)
        table.add_column("phase")
        for name in ("seconds", "share", "frames/s"):
            table.add_column(name, justify="right")
        lines = ["phase,seconds,share,frames_per_s"]
        for row in rows:
            rate = f"{row.frames_per_s:,.0f}" if row.frames_per_s else "-"
            table.add_row(
                row.phase.replace("learn: ", "  "), f"{row.seconds:.2f}", f"{100 * row.share:.1f} %", rate
            )
            lines.append(f"{row.phase},{row.seconds:.4f},{row.share:.4f},{row.frames_per_s:.0f}")
        console.print(table)
        write_text(self.trainer.directory.path / "profile.csv", "\n".join(lines) + "\n")
