"""The bAbI table: one model per task, on the official files, with the checkpoint chosen by validation.

    python -m benchmarks.studies.babi_by_task --data DIR                  train what is missing, test, write the CSV
    python -m benchmarks.studies.babi_by_task --data DIR --minutes 10     stop every run after 10 minutes
    python -m benchmarks.studies.babi_by_task --summary                   print the table from the committed CSV alone

Runs are kept under runs/babi-table, one after the other, and continued where they stopped. All tasks have the
defaults of `train_task.py babi` but for SETTINGS. A run that was stopped early has a row without test error.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.files import Row, read_csv, renew_csv
from agents.metrics import read_metrics
from agents.options import option, parse, run_command
from benchmarks.common import RESULTS_DIR, RUNS_DIR, is_committed, require_clean_tree, run_in_pieces
from envs.errors import UserError
from tasks.babi.config import GENERATED, parse_tasks
from tasks.babi.scores import TASK_NAMES

RUNS = RUNS_DIR / "babi-table"
RESULTS = RESULTS_DIR / "babi.csv"
SETTINGS = ["--stop-at", "0.999"]
"""A run ends once at most 0.1% of the validation questions are wrong."""


@dataclass(frozen=True)
class BabiRunsConfig:
    """Options that every command of the bAbI benchmarks has."""

    data: str | None = option(None, "directory with the official files; needed to train", metavar="DIR")
    core: str = option("mnm-p", "memory core")
    seed: int = option(0, "training seed")
    minutes: float | None = option(
        None, "stop a run after this time; the same command continues it", metavar="X"
    )
    summary: bool = option(False, "train nothing: print and draw from the committed CSV", switch=True)

    def seconds(self) -> float | None:
        """--minutes in seconds."""
        return None if self.minutes is None else 60 * self.minutes

    def data_argument(self) -> str:
        """--data as a run takes it, whose working directory is the repository; raises UserError."""
        if self.data is None:
            raise UserError("--data is needed to train: the directory that holds qa1_train.txt")
        return self.data if self.data == GENERATED else str(Path(self.data).resolve())


@dataclass(frozen=True)
class BabiByTaskConfig(BabiRunsConfig):
    """Options of the command."""

    tasks: str = option("1,6,20,12,15,4,5,16,18,2", "tasks in the order in which they are trained, or all")
    steps: int = option(10_000, "updates of every run at most")


@dataclass(frozen=True)
class Run:
    """One row of the table."""

    task: int
    core: str
    seed: int

    @property
    def path(self) -> Path:
        """Where the run is kept."""
        return RUNS / f"task{self.task}-{self.core}-s{self.seed}"

    def command(self, data: str, steps: int) -> list[str]:
        """The command that makes the run, or continues it."""
        start = [sys.executable, "train_task.py"]
        if (self.path / "checkpoints" / "latest.pt").exists():
            return [*start, "--run-dir", str(self.path), "--resume", "--data", data]
        return [
            *start, "babi", "--data", data, "--tasks", str(self.task), "--core", self.core,
            "--steps", str(steps), "--seed", str(self.seed), "--run-dir", str(self.path), *SETTINGS,
        ]  # fmt: skip

    def row(self) -> dict[str, Any] | None:
        """The run so far; None if it has not been evaluated yet."""
        metrics = self.path / "metrics.csv"
        if not metrics.is_file():
            return None
        rows = read_metrics(metrics)
        best = max(rows, key=lambda row: row["score"])
        finished = (self.path / "result.json").is_file()
        config = json.loads((self.path / "config.json").read_text())
        result = json.loads((self.path / "result.json").read_text()) if finished else {}
        return {
            "task": self.task,
            "core": self.core,
            "seed": self.seed,
            "status": "finished" if finished else "unfinished",
            "steps": int(rows[-1]["updates"]),
            "best_step": int(best["updates"]),
            "wall_s": round(rows[-1]["wall_s"]),
            "valid_error": round(best["valid_mean_error"], 2),
            "test_error": round(result.get("test_mean_error", math.nan), 2),
            "commit": config.get("commit", "unknown"),
        }


def collect(runs: Sequence[Run]) -> None:
    """Replace the rows of `runs` in the CSV by what their directories hold; other rows stay."""
    found = [row for run in runs if (row := run.row()) is not None and is_committed(run.path, row["commit"])]
    renew_csv(RESULTS, found, ["task", "core", "seed"], lambda row: (row["core"], int(row["task"])))


def read_results() -> list[Row]:
    """The rows of the CSV."""
    return read_csv(RESULTS)


def summarise() -> str:
    """The table in Markdown."""
    lines = [
        "| task | core | updates | minutes | validation error % | test error % |",
        "|---|---|---|---|---|---|",
    ]
    for row in read_results():
        tested = row["test_error"] if row["status"] == "finished" else "unfinished"
        lines.append(
            f"| {row['task']}: {TASK_NAMES[int(row['task'])]} | {row['core']} | {int(row['steps']):,} | "
            f"{float(row['wall_s']) / 60:.0f} | {row['valid_error']} | {tested} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(BabiByTaskConfig(), argv, description=__doc__ or "")
    if not config.summary:
        data = config.data_argument()
        runs = [Run(task, config.core, config.seed) for task in parse_tasks(config.tasks)]
        require_clean_tree()
        for run in runs:
            if not (run.path / "result.json").is_file():
                run_in_pieces(run.path, run.command(data, config.steps), config.seconds())
            collect(runs)
    print(summarise())
    return 0


if __name__ == "__main__":
    run_command(main)
