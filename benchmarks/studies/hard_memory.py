"""The tables of docs/hard_memory.md: estimators and temperatures on the tasks with a hard-addressed bank.

    python -m benchmarks.studies.hard_memory                    train what is missing, write the CSV files
    python -m benchmarks.studies.hard_memory --task curve-fit   one of the tasks alone
    python -m benchmarks.studies.hard_memory --summary          print the tables from the committed CSV files alone

Every run is `train_task.py TASK` with the options of SETTINGS; runs are kept under runs/hard-memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import train_task
from agents.files import read_csv, renew_csv
from agents.options import option, parse, run_command
from benchmarks.common import RESULTS_DIR, RUNS_DIR, is_committed, require_clean_tree
from tasks.trainer import TaskTrainer

RUNS = RUNS_DIR / "hard-memory"


def fixed(temperature: float) -> list[str]:
    """Options for a temperature that is not annealed."""
    return ["--tau-start", str(temperature), "--tau-end", str(temperature)]


SETTINGS: dict[str, dict[str, list[str]]] = {
    "curve-fit": {
        "st 2 to 0.3 (default)": [],
        "st 0.67 (the source)": fixed(0.67),
        "st 1": fixed(1.0),
        "st 2": fixed(2.0),
        "gumbel-rao 2 to 0.3": ["--estimator", "gumbel-rao"],
        "gumbel-rao 0.67": ["--estimator", "gumbel-rao", *fixed(0.67)],
        "reinmax 1": ["--estimator", "reinmax", *fixed(1.0)],
        "reinforce": ["--estimator", "reinforce"],
        "exact enumeration": ["--estimator", "exact"],
        "st 2 to 0.3 with a learned bank": ["--learn-bank"],
    },
    "prototypes": {
        "hard 2 to 0.3 (default)": [],
        "hard 0.67": fixed(0.67),
        "hard gumbel-rao 2 to 0.3": ["--estimator", "gumbel-rao"],
        "hard reinforce": ["--estimator", "reinforce"],
        "hard exact enumeration": ["--estimator", "exact"],
        "soft": ["--read", "soft"],
        "hard 2 to 0.3 of 4 shapes": ["--shapes", "4"],
        "soft of 4 shapes": ["--read", "soft", "--shapes", "4"],
    },
}
FIGURES: dict[str, tuple[str, ...]] = {
    "curve-fit": (
        "mse", "excess", "agreement", "cells_used", "sampled_mse", "optimal_mse", "swap_exact", "swapped_mse",
        "bank", "wall_s", "commit",
    ),
    "prototypes": (
        "accuracy", "mse", "inverted_mse", "replaced_mse", "replaced_answer_before", "replaced_answer_after",
        "replaced_answer_expected", "others_unchanged", "scale", "offset", "wall_s", "commit",
    ),
}  # fmt: skip
"""What is copied from result.json."""
SUMMARY: dict[str, tuple[tuple[str, str, float], ...]] = {
    "curve-fit": (
        ("excess", "excess, 1e-4", 1e4),
        ("agreement", "agreement", 1.0),
        ("cells_used", "cells used", 1.0),
        ("sampled_mse", "sampled mse", 1.0),
        ("mse", "argmax mse", 1.0),
        ("wall_s", "seconds", 1.0),
    ),
    "prototypes": (
        ("accuracy", "accuracy", 1.0),
        ("mse", "mse", 1.0),
        ("inverted_mse", "mse, all inverted", 1.0),
        ("replaced_mse", "mse, one replaced", 1.0),
        ("wall_s", "seconds", 1.0),
    ),
}
"""Column, its title and its scale in the printed table."""


@dataclass(frozen=True)
class HardMemoryConfig:
    """Options of the command."""

    task: Literal["curve-fit", "prototypes"] | None = option(
        None, f"one of {', '.join(SETTINGS)}; all if not given"
    )
    seeds: int = option(5, "training seeds per setting")
    summary: bool = option(False, "print the tables from the committed CSV files and stop", switch=True)


def result_of(task: str, setting: str, seed: int) -> dict[str, Any]:
    """The result of one run, which is made if it is missing, or continued."""
    name = "".join(c if c.isalnum() or c in "-." else "_" for c in f"{task} {setting} s{seed}")
    path = RUNS / name / "result.json"
    if not path.exists():
        options = [task, *SETTINGS[task][setting], "--seed", str(seed), "--run-dir", str(RUNS / name)]
        config, _ = train_task.read_command([*options, "--device", "cpu"])
        trainer = TaskTrainer(config, resume=(RUNS / name / "checkpoints" / "latest.pt").exists())
        trainer.run()
        trainer.finish()
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def measure(task: str, seeds: int) -> None:
    """Run what is missing of a task and renew its rows in the CSV.

    Seed by seed, so that an unfinished table has every setting with fewer seeds.
    """
    places = list(SETTINGS[task])
    for seed in range(seeds):
        for setting, options in SETTINGS[task].items():
            result = result_of(task, setting, seed)
            if not is_committed(Path(f"{task} {setting} s{seed}"), result["commit"]):
                continue
            row = {
                "setting": setting,
                "options": " ".join(options),
                "seed": seed,
                "updates": result["updates"],
                **{name: rounded(result[name]) for name in FIGURES[task]},
            }
            print(row, flush=True)
            renew_csv(
                csv_of(task),
                [row],
                ["setting", "seed"],
                lambda known: (places.index(known["setting"]), int(known["seed"])),
            )


def rounded(value: Any) -> Any:
    """Six significant digits; a list becomes words."""
    if isinstance(value, list):
        return " ".join(str(rounded(item)) for item in value)
    return float(f"{value:.6g}") if isinstance(value, float) else value


def csv_of(task: str) -> Path:
    """Where the rows of a task are committed."""
    return RESULTS_DIR / f"{task.replace('-', '_')}.csv"


def summarise(task: str) -> str:
    """The table in Markdown: smallest to largest value over the seeds."""
    rows = read_csv(csv_of(task))
    titles = [title for _, title, _ in SUMMARY[task]]
    lines = [f"| setting | {' | '.join(titles)} |", "|---" * (1 + len(titles)) + "|"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        found = [row for row in rows if row["setting"] == setting]
        cells = []
        for name, _, scale in SUMMARY[task]:
            values = scale * np.array([float(row[name]) for row in found])
            low, high = (f"{value:.3g}" for value in (values.min(), values.max()))
            cells.append(low if low == high else f"{low} to {high}")
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(HardMemoryConfig(), argv, description=__doc__ or "")
    for task in [config.task] if config.task is not None else list(SETTINGS):
        if not config.summary:
            require_clean_tree()
            measure(task, config.seeds)
        print(f"{task}\n\n{summarise(task)}\n")
    return 0


if __name__ == "__main__":
    run_command(main)
