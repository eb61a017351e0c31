"""LSTM and GRU over a segment with resets: frames/s, forward and backward.

    python -m benchmarks.speed.recurrent_speed            the table, benchmarks/results/recurrent_speed.csv and .png
    python -m benchmarks.speed.recurrent_speed --quick    one round; writes nothing

Three ways over the same segment take turns on one thread, and the best round of each counts:

    steps      the definition, a loop of reset and step
    segment    `unroll`: one kernel call, resets as extra rows (memory/recurrent/reset_rows.py)
    library    the library's module on the same segment as if it had no resets: what it costs without the problem

Time is processor time, so that a neighbour's share of the machine is not counted; only the ratios are results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.files import read_csv, write_csv
from agents.options import option, parse, run_command
from benchmarks.common import RESULTS_DIR, machine_columns, require_clean_tree
from benchmarks.report.speed_page import plot_bars, put_table
from memory import GRUCore, LSTMCore, MemoryCore
from memory.options import SizeOptions

RESULTS = RESULTS_DIR / "recurrent_speed.csv"
SIZE = 128
SHAPES = ((8, 128), (16, 50), (64, 128))
RATES = (0.02, 0.1)


@dataclass(frozen=True)
class RecurrentSpeedConfig:
    """Options of the command."""

    rounds: int = option(6, "rounds; the best of each counts")
    quick: bool = option(False, "one round, nothing is written", switch=True)
    summary: bool = option(
        False, "print the table and draw the plot from the committed CSV alone", switch=True
    )


def best_seconds(ways: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Least processor time of each way, forward and backward, the ways taking turns after one to warm up."""
    best = dict.fromkeys(ways, float("inf"))
    for number in range(rounds + 1):
        for name, way in ways.items():
            begun = time.process_time()
            way().sum().backward()
            if number:
                best[name] = min(best[name], time.process_time() - begun)
    return best


def measure(rounds: int) -> list[dict[str, Any]]:
    """Rows of the table."""
    rows = []
    for name, kind in (("lstm", LSTMCore), ("gru", GRUCore)):
        for batch, steps in SHAPES:
            for rate in RATES:
                torch.manual_seed(0)
                core = kind(SIZE, SizeOptions(hidden_size=SIZE))
                xs, is_first = (
                    torch.randn(steps, batch, SIZE, requires_grad=True),
                    torch.rand(steps, batch) < rate,
                )
                best = best_seconds(ways_of(core, xs, is_first), rounds)
                fps = {way: round(steps * batch / seconds) for way, seconds in best.items()}
                rows.append(
                    {
                        "core": name, "batch": batch, "length": steps, "reset_rate": rate, **fps,
                        "segment_to_steps": round(best["steps"] / best["segment"], 2),
                        "segment_to_library": round(best["library"] / best["segment"], 2), **machine_columns(),
                    }
                )  # fmt: skip
    return rows


def ways_of(core: LSTMCore | GRUCore, xs: Tensor, is_first: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The three ways, each giving the features."""
    start: Any = core.initial_state(xs.shape[1])
    return {
        "steps": lambda: MemoryCore.unroll(core, xs, start, is_first)[0].features,
        "segment": lambda: core.unroll(xs, start, is_first)[0].features,
        "library": lambda: core.rnn(xs)[0],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown, with its conditions above it."""
    first = rows[0]
    lines = [
        f"Frames/s forward and backward, input and hidden size {SIZE}, float32, one thread; {first['date']}, "
        f"{first['cpu']}, torch {first['torch']}, commit {first['commit']}",
        "",
        "| core | B | T | resets | steps | segment | library, no resets | segment / steps | segment / library |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['core']} | {row['batch']} | {row['length']} | {100 * float(row['reset_rate']):g}% | "
            f"{int(row['steps']):,} | {int(row['segment']):,} | {int(row['library']):,} | "
            f"{row['segment_to_steps']} | {row['segment_to_library']} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(RecurrentSpeedConfig(), argv, description=__doc__ or "")
    if not (config.quick or config.summary):
        require_clean_tree()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = (
        list(read_csv(RESULTS)) if config.summary else measure(1 if config.quick else config.rounds)
    )
    print(table(rows))
    if not config.quick:
        if not config.summary:
            write_csv(RESULTS, rows)
        put_table("recurrent_speed", table(rows))
        names = [f"{row['core']}, B {row['batch']}, resets {100 * float(row['reset_rate']):g}%, {way}"
                 for row in rows for way in ("steps", "segment", "library")]  # fmt: skip
        values = [float(row[way]) for row in rows for way in ("steps", "segment", "library")]
        colours = ["#9aa5b1", "#3465a4", "#c4a000"] * len(rows)
        plot_bars(
            RESULTS.with_suffix(".png"), names, values, colours, "frames per second, forward and backward"
        )
    return 0


if __name__ == "__main__":
    run_command(main)
