"""The maze table: every core, PPO and A2C, at equal frames, evaluated on held-out mazes.

    python benchmarks/maze_table.py --seeds 3 --workers 2     train what is missing, evaluate, write the CSV
    python benchmarks/maze_table.py --summary                 print the table from the committed CSV alone

Runs are kept under runs/maze-table and continued where they stopped, so the command can be interrupted.
Everything is the preset `maze` but for what SETTINGS says, the same for all cores.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.evaluation import bootstrap_interval
from agents.files import write_csv
from agents.options import option, parse, run_command
from agents.run_dir import read_metrics
from memory import CORE_NAMES

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "maze-table"
RESULTS = ROOT / "benchmarks" / "results" / "maze.csv"
CURVES = ROOT / "benchmarks" / "results" / "maze_curves.csv"
SIDES = (9, 11)
ALGORITHMS: dict[str, list[str]] = {
    "ppo": [],
    # A2C makes one update per rollout: shorter rollouts give it as many updates as it can use.
    "a2c": ["--rollout-steps", "20"],
}
EPISODES = 200


@dataclass(frozen=True)
class TableConfig:
    """Options of the command."""

    seeds: int = option(3, "training seeds per row")
    total_steps: int = option(400_000, "frames of every run")
    workers: int = option(1, "runs at the same time, one thread each")
    summary: bool = option(False, "print the table from the committed CSV and stop", switch=True)


@dataclass(frozen=True)
class Run:
    """One cell of the table and one seed."""

    side: int
    algo: str
    core: str
    seed: int

    @property
    def path(self) -> Path:
        """Where the run is kept."""
        return RUNS / f"side{self.side}-{self.algo}-{self.core}-s{self.seed}"

    def train_command(self, total_steps: int) -> list[str]:
        """The command that makes the run, or continues it."""
        command = [sys.executable, "train_rl.py", "--run-dir", str(self.path)]
        if (self.path / "checkpoints" / "latest.pt").exists():
            return [*command, "--resume"]
        return [
            *command, "--preset", "maze", "--env", f"mnm/GridMaze{self.side}-v0", "--algo", self.algo,
            "--core", self.core, "--seed", str(self.seed), "--total-steps", str(total_steps),
            "--threads", "1", *ALGORITHMS[self.algo],
        ]  # fmt: skip

    def evaluate_command(self) -> list[str]:
        """The command that plays the held-out mazes with the sampled policy, as training did."""
        return [
            sys.executable, "evaluate.py", str(self.path), "--episodes", str(EPISODES), "--policy", "sample",
            "--threads", "1", "--json", str(self.path / "evaluation.json"),
        ]  # fmt: skip


def train_and_evaluate(run: Run, total_steps: int) -> None:
    """Bring one run to its end; does nothing if it was evaluated already."""
    if (run.path / "evaluation.json").exists():
        return
    for command in (run.train_command(total_steps), run.evaluate_command()):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"{run.path.name} failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            return
    print(
        f"{run.path.name}: {json.loads((run.path / 'evaluation.json').read_text())['return_mean']:.1f}",
        flush=True,
    )


def collect(runs: Sequence[Run]) -> None:
    """Write one row per finished run, and the learning curves, from the run directories."""
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for run in runs:
        path = run.path / "evaluation.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        metrics = read_metrics(run.path / "metrics.csv")
        name = {"side": run.side, "algo": run.algo, "core": run.core, "seed": run.seed}
        rows.append(
            {
                **name,
                "frames": result["frames"],
                "return": round(result["return_mean"], 2),
                "low": round(result["return_interval_95"][0], 2),
                "high": round(result["return_interval_95"][1], 2),
                "episodes": result["episodes"],
                "policy": result["policy"],
                "commit": json.loads((run.path / "config.json").read_text()).get("commit", "unknown"),
            }
        )
        curves += [
            {**name, "frames": int(row["frames"]), "return": round(row["return_mean"], 2)}
            for row in metrics
            if not np.isnan(row["return_mean"])
        ]
    write_csv(RESULTS, rows)
    write_csv(CURVES, curves)


def summarise() -> str:
    """The table in Markdown: mean over seeds and its 95% bootstrap interval, and every seed."""
    with RESULTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [
        "| side | algorithm | core | frames | mean held-out return | 95% over seeds | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for side in SIDES:
        for algo in ALGORITHMS:
            for core in CORE_NAMES:
                found = [r for r in rows if (r["side"], r["algo"], r["core"]) == (str(side), algo, core)]
                if not found:
                    continue
                returns = np.array([float(row["return"]) for row in found])
                low, high = bootstrap_interval(returns)
                each = ", ".join(f"{value:.0f}" for value in returns)
                lines.append(
                    f"| {side} | {algo} | {core} | {int(found[0]['frames']):,} | {returns.mean():.1f} | "
                    f"{low:.1f} to {high:.1f} | {each} |"
                )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(TableConfig(), argv, description=__doc__ or "")
    if not config.summary:
        # Seed by seed, so that an unfinished table has every row with fewer seeds.
        runs = [
            Run(side, algo, core, seed)
            for seed in range(config.seeds)
            for side in SIDES
            for algo in ALGORITHMS
            for core in CORE_NAMES
        ]
        with ThreadPoolExecutor(config.workers) as pool:
            list(pool.map(lambda run: train_and_evaluate(run, config.total_steps), runs))
        collect(runs)
    print(summarise())
    return 0


if __name__ == "__main__":
    run_command(main)
