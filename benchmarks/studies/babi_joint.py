"""One model for all twenty bAbI tasks, trained in pieces: its curve, and the error per task.

    python -m benchmarks.studies.babi_joint --data DIR --minutes 30     30 minutes of training; the same command goes on
    python -m benchmarks.studies.babi_joint --data DIR --steps 90000    go on beyond the steps of the first run
    python -m benchmarks.studies.babi_joint --summary                   print and draw from the committed CSV alone

The run is kept under runs/babi-joint. Writes benchmarks/results/babi_joint.csv (error per task at the best
validation so far, and on the test files once the run has ended), babi_joint_curve.csv and docs/babi_joint.png.
Once it has ended, its maps of what is written where become docs/babi_writes.png, their figures babi_writes.csv.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from agents.curves import save_figure
from agents.files import atomic_file, read_csv, write_csv
from agents.metrics import format_number, read_metrics
from agents.options import option, parse, run_command
from benchmarks.common import (
    RESULTS_DIR,
    ROOT,
    RUNS_DIR,
    commit_of,
    is_committed,
    require_clean_tree,
    run_in_pieces,
)
from benchmarks.studies.babi_by_task import BabiRunsConfig
from tasks.babi.config import GENERATED
from tasks.babi.scores import FAILED_ABOVE, TASK_NAMES

RUNS = RUNS_DIR / "babi-joint"
RESULTS = RESULTS_DIR / "babi_joint.csv"
CURVE = RESULTS.with_name("babi_joint_curve.csv")
FIGURE = ROOT / "docs" / "babi_joint.png"
WRITES = RESULTS.with_name("babi_writes.csv")
WRITES_FIGURE = ROOT / "docs" / "babi_writes.png"
SETTINGS = [
    "--hidden-size", "128", "--memory-size", "64", "--embedding-size", "64", "--batch-size", "32",
    "--learning-rate", "2e-3", "--log-every", "500", "--checkpoint-every", "500",
]  # fmt: skip
"""Small enough for one core; everything else is the default of `train_task.py babi`."""
LABEL_HEIGHT = 3.5
"""Of a label in the figure, in per cent of errors."""


@dataclass(frozen=True)
class JointConfig(BabiRunsConfig):
    """Options of the command."""

    steps: int = option(36_000, "updates, over which the learning rate falls to 0")


def command(config: JointConfig, path: Path) -> list[str]:
    """The command that makes the run at `path`, or continues it."""
    data = config.data_argument()
    start = [sys.executable, "train_task.py"]
    if (path / "checkpoints" / "latest.pt").exists():
        return [*start, "--run-dir", str(path), "--resume", "--data", data, "--steps", str(config.steps)]
    return [
        *start, "babi", "--data", data, "--tasks", "all", "--core", config.core, "--seed", str(config.seed),
        "--steps", str(config.steps), "--run-dir", str(path), *SETTINGS,
    ]  # fmt: skip


def collect(config: JointConfig, path: Path) -> None:
    """Errors per task and the curve of the run at `path` as CSV files."""
    commit = commit_of(path)
    if not is_committed(path, commit):
        return
    metrics = read_metrics(path / "metrics.csv")
    columns = ["updates", "wall_s", "valid_mean_error", "valid_failed"]
    columns += [name for name in metrics[0] if name.startswith("valid_error_task")]
    write_csv(CURVE, [{name: format_number(row[name]) for name in columns} for row in metrics])
    best = max(metrics, key=lambda row: row["score"])
    # What an earlier piece of the run found on the test files says nothing about a run that went on.
    result_file = path / "result.json"
    result = json.loads(result_file.read_text()) if result_file.is_file() else {}
    if result.get("updates") != metrics[-1]["updates"]:
        result = {}
    elif (path / "writes.csv").is_file() and config.data != GENERATED:
        for made, kept in (("writes.csv", WRITES), ("writes.png", WRITES_FIGURE)):
            with atomic_file(kept) as target:
                target.write((path / made).read_bytes())
    write_csv(
        RESULTS,
        [
            {
                "task": task,
                "name": TASK_NAMES[task],
                "core": config.core,
                "seed": config.seed,
                "updates": int(metrics[-1]["updates"]),
                "best_updates": int(best["updates"]),
                "wall_s": round(metrics[-1]["wall_s"]),
                "valid_error": round(best[f"valid_error_task{task}"], 2),
                "test_error": round(result.get(f"test_error_task{task}", math.nan), 2),
                "commit": commit,
            }
            for task in TASK_NAMES
            if f"valid_error_task{task}" in best
        ],
    )


def draw(path: Path) -> None:
    """The validation error of every task over the updates, and their mean; what is not learnt is named."""
    rows = read_csv(CURVE)
    updates = [float(row["updates"]) / 1e3 for row in rows]
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    last_label = -math.inf
    # From the best to the worst, so that labels that would lie on each other move up.
    for name in sorted(rows[0], key=lambda name: float(rows[-1][name])):
        if name.startswith("valid_error_task"):
            errors = [float(row[name]) for row in rows]
            failed = errors[-1] > FAILED_ABOVE
            axes.plot(updates, errors, linewidth=0.9, color="#cc6677" if failed else "#bbbbbb")
            if failed:
                last_label = max(errors[-1], last_label + LABEL_HEIGHT)
                task = name.removeprefix("valid_error_task")
                axes.annotate(f" {task}", (updates[-1], last_label), fontsize=8, va="center")
    axes.plot(updates, [float(row["valid_mean_error"]) for row in rows], color="#0072b2", linewidth=2.2)
    axes.set(xlabel="updates (thousands)", ylabel="validation error, %", ylim=(0, None))
    axes.set_title(f"blue: mean of the tasks; numbers: failed tasks (above {FAILED_ABOVE:.0f}%)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def summarise() -> str:
    """The table in Markdown, in the form of the literature."""
    rows = read_csv(RESULTS)
    lines = ["| task | validation error % | test error % |", "|---|---|---|"]
    lines += [
        f"| {row['task']}: {row['name']} | {float(row['valid_error']):.1f} | {float(row['test_error']):.1f} |"
        for row in rows
    ]
    columns = [[float(row[name]) for row in rows] for name in ("valid_error", "test_error")]
    means = " | ".join(f"{sum(errors) / len(errors):.2f}" for errors in columns)
    failed = " | ".join(str(sum(error > FAILED_ABOVE for error in errors)) for errors in columns)
    lines += [f"| mean error % | {means} |", f"| failed tasks (error > {FAILED_ABOVE:.0f}%) | {failed} |"]
    first = rows[0]
    return "\n".join(lines) + (
        f"\n\n{first['core']}, seed {first['seed']}: {int(first['updates']):,} updates in "
        f"{float(first['wall_s']) / 60:.0f} minutes, weights of update {int(first['best_updates']):,}."
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(JointConfig(), argv, description=__doc__ or "")
    if not config.summary:
        path = RUNS / f"{config.core}-s{config.seed}"
        arguments = command(config, path)
        require_clean_tree()
        run_in_pieces(path, arguments, config.seconds())
        collect(config, path)
    draw(FIGURE)
    print(summarise())
    return 0


if __name__ == "__main__":
    run_command(main)
