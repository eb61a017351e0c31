"""Dictionary inference, copy and associative recall: every core side by side, at equal updates.

    python -m benchmarks.studies.symbol_tasks                 train what is missing, test, write the CSVs and the figure
    python -m benchmarks.studies.symbol_tasks --minutes 10    stop after 10 minutes; the same command continues
    python -m benchmarks.studies.symbol_tasks --cores mnm-p,"mnm-p writes-off"        train these alone
    python -m benchmarks.studies.symbol_tasks --summary       print the table and draw the figure from the CSVs alone

Runs are kept under runs/tasks-table, and continued where they stopped. Everything is the
default of `train_task.py TASK`, the same for all cores, but for the ablations of mnm-p, whose rows lack a part
(`SWITCHED_OFF` in studies.py). Times are seconds of one core, whatever else ran.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from agents.curves import save_figure
from agents.files import read_csv, renew_csv
from agents.metrics import read_metrics
from agents.options import check_at_least, option, parse, run_command, suggestion
from benchmarks.common import (
    CORE_COLOURS,
    RESULTS_DIR,
    RUNS_DIR,
    is_committed,
    require_clean_tree,
    run_in_pieces,
)
from benchmarks.studies.studies import SWITCHED_OFF
from envs.errors import UserError
from memory import CORE_NAMES

RUNS = RUNS_DIR / "tasks-table"
TABLE, ACCURACY, CURVES = (RESULTS_DIR / f"tasks{part}.csv" for part in ("", "_accuracy", "_curves"))
FIGURE = RESULTS_DIR / "tasks.png"
CORES = (*CORE_NAMES, *SWITCHED_OFF)
TASKS = ("dictionary", "copy", "associative-recall")
HARDEST = {"dictionary": ("4", "1"), "copy": ("10", "1"), "associative-recall": ("4", "2")}
"""Items and symbols per item of the largest trained size."""


@dataclass(frozen=True)
class SymbolTasksConfig:
    """Options of the command."""

    cores: str = option("", "only these cores, separated by commas", metavar="NAMES")
    seeds: int = option(1, "training seeds per row")
    steps: int = option(6_000, "updates of every run")
    workers: int = option(1, "runs at the same time, one thread each")
    minutes: float | None = option(None, "stop after this time; the same command continues", metavar="X")
    summary: bool = option(False, "print and draw the committed CSVs and stop", switch=True)

    def __post_init__(self) -> None:
        check_at_least(self, 1, "seeds", "steps", "workers")
        for core in self.chosen():
            if core not in CORES:
                raise UserError(f"unknown core {core!r}{suggestion(core, CORES)}; valid: {', '.join(CORES)}")

    def chosen(self) -> list[str]:
        """The cores to train."""
        return [core for core in self.cores.split(",") if core] or list(CORES)


@dataclass(frozen=True)
class Run:
    """One task, one core, one seed."""

    task: str
    core: str
    seed: int

    @property
    def path(self) -> Path:
        """Where the run is kept."""
        return RUNS / f"{self.task}-{self.core.replace(' ', '-')}-s{self.seed}"

    def command(self, steps: int) -> list[str]:
        """The command that makes the run, or continues it."""
        start = [sys.executable, "train_task.py"]
        if (self.path / "checkpoints" / "latest.pt").exists():
            return [*start, "--run-dir", str(self.path), "--resume"]
        return [
            *start, self.task, "--core", self.core.split()[0], *SWITCHED_OFF.get(self.core, ()),
            "--seed", str(self.seed), "--steps", str(steps), "--run-dir", str(self.path),
        ]  # fmt: skip

    def result(self) -> dict[str, Any] | None:
        """What the finished run found; None before its end."""
        path = self.path / "result.json"
        return json.loads(path.read_text()) if path.is_file() else None


def train(run: Run, steps: int, end: float | None) -> None:
    """Bring a run to its end, or on until the clock shows `end`; does nothing if it has its result."""
    left = None if end is None else end - time.monotonic()
    if run.result() is not None or (left is not None and left <= 0):
        return
    run_in_pieces(run.path, run.command(steps), left)


def collect(runs: Sequence[Run]) -> None:
    """Write the three CSVs from the runs that reached their end; what is known of other runs stays."""
    table, accuracy, curves = [], [], []
    for run in runs:
        result = run.result()
        if result is None or not is_committed(run.path, result["commit"]):
            continue
        name = {"task": run.task, "core": run.core, "seed": run.seed}
        table.append(
            {
                **name,
                "updates": result["updates"],
                "cpu_s": round(result["cpu_s"]),
                "parameters": result["parameters"],
                "test_accuracy": round(result["test_accuracy"], 4),
                "test_accuracy_beyond": round(result["test_accuracy_beyond"], 4),
                "commit": result["commit"],
            }
        )
        accuracy += [{**name, **row} for row in result["accuracy"]]
        curves += [
            {**name, "updates": int(row["updates"]), "score": round(row["score"], 4)}
            for row in read_metrics(run.path / "metrics.csv")
        ]
    for path, rows in ((TABLE, table), (ACCURACY, accuracy), (CURVES, curves)):
        renew_csv(path, rows, ["task", "core", "seed"], order=place_of)


def place_of(row: Mapping[str, Any]) -> tuple[int, int, int]:
    """Where the rows of a run stand in a CSV: by task, core and seed."""
    return TASKS.index(row["task"]), CORES.index(row["core"]), int(row["seed"])


def mean(rows: Sequence[dict[str, str]], name: str) -> float:
    """The mean of a column."""
    return sum(float(row[name]) for row in rows) / len(rows)


def chosen(rows: Sequence[dict[str, str]], **wanted: str) -> list[dict[str, str]]:
    """The rows in which the columns `wanted` have these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def summarise() -> str:
    """The table in Markdown, means over seeds."""
    rows, sizes = read_csv(TABLE), read_csv(ACCURACY)
    lines = [
        "| task | core | seeds | updates | core-seconds | parameters | trained sizes % | largest trained % | "
        "beyond % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        for core in CORES:
            found = chosen(rows, task=task, core=core)
            if not found:
                continue
            items, length = HARDEST[task]
            hardest = chosen(sizes, task=task, core=core, items=items, item_length=length)
            figures = (mean(found, "test_accuracy"), mean(hardest, "symbol_accuracy"),
                       mean(found, "test_accuracy_beyond"))  # fmt: skip
            lines.append(
                f"| {task} | {core} | {len(found)} | {int(found[0]['updates']):,} | "
                f"{mean(found, 'cpu_s'):.0f} | {int(found[0]['parameters']):,} | "
                + " | ".join(f"{100 * figure:.1f}" for figure in figures)
                + " |"
            )
    return "\n".join(lines)


def draw() -> None:
    """Learning curves above, accuracy over items (one symbol each) below; one column per task."""
    curves, sizes = read_csv(CURVES), read_csv(ACCURACY)
    tasks = [task for task in TASKS if chosen(curves, task=task)]
    figure = Figure(figsize=(4.5 * len(tasks), 7), layout="constrained")
    axes = figure.subplots(2, len(tasks), squeeze=False)
    for column, task in enumerate(tasks):
        above, below = axes[0][column], axes[1][column]
        for core in CORE_NAMES:
            for axis, rows, x, y in (
                (above, curves, "updates", "score"),
                (below, chosen(sizes, item_length="1"), "items", "symbol_accuracy"),
            ):
                found = chosen(rows, task=task, core=core)
                places = sorted({int(row[x]) for row in found})
                means = [100 * mean(chosen(found, **{x: str(place)}), y) for place in places]
                axis.plot(places, means, color=CORE_COLOURS[core], label=core, marker="o", markersize=3)
        trained = [int(row["items"]) for row in chosen(sizes, task=task, trained="1", item_length="1")]
        below.axvspan(min(trained) - 0.3, max(trained) + 0.3, color="black", alpha=0.08)
        above.set_title(task)
        above.set_xlabel("updates")
        above.set_ylabel("validation accuracy (%)")
        below.set_xlabel("items in the sequence (grey: trained)")
        below.set_ylabel("right symbols (%), items of one symbol")
        for axis in (above, below):
            axis.set_ylim(0, 102)
            axis.grid(alpha=0.3)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=9)
    save_figure(figure, FIGURE)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(SymbolTasksConfig(), argv, description=__doc__ or "")
    if not config.summary:
        require_clean_tree()
        # Seed by seed, so that an unfinished table has every row with fewer seeds.
        runs = [
            Run(task, core, seed)
            for seed in range(config.seeds)
            for task in TASKS
            for core in config.chosen()
        ]
        end = None if config.minutes is None else time.monotonic() + 60 * config.minutes
        with ThreadPoolExecutor(config.workers) as pool:
            try:
                for _ in pool.map(lambda run: train(run, config.steps, end), runs):
                    collect(runs)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    if not TABLE.is_file():
        raise UserError(f"there is no {TABLE}: no run has reached its end yet")
    draw()
    print(summarise())
    return 0


if __name__ == "__main__":
    run_command(main)
