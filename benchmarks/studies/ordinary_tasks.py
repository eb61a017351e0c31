"""Do the defaults learn? Ordinary tasks trained with them, each with a bar, and the table of docs/defaults.md.

    python -m benchmarks.studies.ordinary_tasks                                all that is missing
    python -m benchmarks.studies.ordinary_tasks --tasks CartPole --cores none --seeds 0
    python -m benchmarks.studies.ordinary_tasks --tasks none                   only writes the table again

A run is trained by `train_rl.py`, then plays held-out episodes with the greedy policy of its last checkpoint, once
more with the sampled one (a greedy agent can turn in circles where one that draws its actions does not), and with the
greedy policy of its best checkpoint, which training chose by its own episodes. Runs are kept under runs/ordinary; a
row per run goes to benchmarks/results/ordinary_tasks.csv as soon as it is there.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.files import read_csv, renew_csv
from agents.metrics import read_metrics
from agents.options import option, parse, run_command
from benchmarks.common import (
    RESULTS_DIR,
    ROOT,
    RUNS_DIR,
    check_takes_part,
    commit_of,
    is_committed,
    names_in,
    numbers_in,
    require_clean_tree,
)
from benchmarks.report.speed_page import put_table
from envs.errors import UserError

RUNS = RUNS_DIR / "ordinary"
RESULTS = RESULTS_DIR / "ordinary_tasks.csv"
PAGE = ROOT / "docs" / "defaults.md"
EPISODES = 50
EVALUATIONS: dict[str, tuple[str, ...]] = {
    "greedy": (),
    "sample": ("--policy", "sample"),
    "best": ("--checkpoint", "best"),
}
"""Columns of the table, and the options of evaluate.py."""
MEMORIES = ("lstm", "mnm-p")
CORES = ("none", *MEMORIES)

POSITIONS = ("--wrapper", 'envs.wrappers:KeepEntries {"keep": [0, 2]}')
"""CartPole's cart and pole without their velocities."""
ANGLE = ("--preset", "continuous", "--anneal", "--wrapper", 'envs.wrappers:KeepEntries {"keep": [0, 1]}')
"""Pendulum's angle without its velocity. At a constant rate what was learnt is lost again: as the policy becomes
certain, one update changes it more and more."""


@dataclass(frozen=True)
class Task:
    """An environment, what it is trained with beside the defaults, and what must be reached."""

    env: str
    frames: int
    bar: float
    """Least return (or success rate) on held-out episodes."""
    options: tuple[str, ...] = ()
    cores: tuple[str, ...] = CORES
    figure: str = "return"
    """"return" or "success"."""


TASKS = {
    "CartPole": Task("CartPole-v1", 150_000, 475.0),
    "CartPole-positions": Task("CartPole-v1", 300_000, 450.0, POSITIONS),
    "DoorKey-5x5": Task("MiniGrid-DoorKey-5x5-v0", 80_000, 0.95, figure="success"),
    "Acrobot": Task("Acrobot-v1", 300_000, -100.0),
    "Pendulum": Task("Pendulum-v1", 300_000, -250.0, ("--preset", "continuous")),
    "Pendulum-angle": Task("Pendulum-v1", 600_000, -400.0, ANGLE, cores=MEMORIES),
    "MountainCar": Task("MountainCar-v0", 500_000, -130.0, cores=("none",)),
    "LunarLander": Task("LunarLander-v3", 1_000_000, 200.0, cores=("none",)),
}


@dataclass(frozen=True)
class OrdinaryConfig:
    """Options of the command."""

    tasks: str = option("all", "names separated by commas, all or none", metavar="NAMES")
    cores: str = option("", "only these cores, separated by commas", metavar="NAMES")
    seeds: str = option("0,1,2", "training seeds, separated by commas", metavar="SEEDS")


@dataclass(frozen=True)
class Run:
    """One cell of the table."""

    task: str
    core: str
    seed: int

    @property
    def path(self) -> Path:
        """Where the run is kept."""
        return RUNS / f"{self.task}-{self.core}-s{self.seed}"

    @property
    def options(self) -> list[str]:
        """Of train_rl.py, --run-dir left out."""
        task = TASKS[self.task]
        return [
            "--env", task.env, "--core", self.core, "--seed", str(self.seed),
            "--total-steps", str(task.frames), *task.options,
        ]  # fmt: skip

    def bring_to_its_end(self) -> None:
        """Train and evaluate; raises UserError if either fails."""
        train = ["train_rl.py", "--run-dir", str(self.path), "--resume-or-start", *self.options]
        play = ["evaluate.py", str(self.path), "--episodes", str(EPISODES)]
        missing = {name: more for name, more in EVALUATIONS.items() if not self.evaluation(name).exists()}
        plays = [[*play, *more, "--json", str(self.evaluation(name))] for name, more in missing.items()]
        for command in (train, *plays) if len(missing) == len(EVALUATIONS) else plays:
            done = subprocess.run(
                [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise UserError(f"{self.path.name} failed: {done.stderr.strip().splitlines()[-1:]}")

    def evaluation(self, name: str) -> Path:
        """Where an evaluation is kept."""
        return self.path / f"evaluation-{name}.json"

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be done."""
        return all(self.evaluation(name).exists() for name in EVALUATIONS)

    def row(self) -> dict[str, Any]:
        """What is kept of it."""
        task = TASKS[self.task]
        found, sampled, best = (json.loads(self.evaluation(name).read_text()) for name in EVALUATIONS)
        figure = "success_rate" if task.figure == "success" else "return_mean"
        last = read_metrics(self.path / "metrics.csv")[-1]
        return {
            "task": self.task, "core": self.core, "seed": self.seed, "frames": found["frames"],
            "figure": task.figure, "value": round(found[figure], 3), "sampled": round(sampled[figure], 3),
            "best": round(best[figure], 3), "bar": task.bar, "episodes": found["episodes"],
            "wall_s": round(last["wall_s"]), "commit": commit_of(self.path), "options": shlex.join(self.options),
        }  # fmt: skip


def table(rows: Sequence[dict[str, str]]) -> str:
    """One line per task and core, with the held-out figure of every seed."""
    lines = [
        "| task | frames | core | figure | greedy, each seed | sampled | greedy, best checkpoint | target | options |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, task in TASKS.items():
        for core in task.cores:
            found = [row for row in rows if (row["task"], row["core"]) == (name, core)]
            if found:
                digits = 2 if task.figure == "success" else 1
                found.sort(key=lambda row: int(row["seed"]))
                values = (
                    ", ".join(f"{float(row[name]):.{digits}f}" for row in found)
                    for name in ("value", "sampled", "best")
                )
                shown = f"`{shlex.join(task.options)}`" if task.options else ""
                lines.append(
                    f"| {name} | {task.frames:,} | {core} | {task.figure} | {' | '.join(values)} | {task.bar:g} "
                    f"| {shown} |"
                )
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    return "\n".join([*lines, "", f"Commit {commits}; {EPISODES} held-out episodes each."])


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(OrdinaryConfig(), argv, description=__doc__ or "")
    named = names_in(config.tasks, TASKS, "task")
    wanted = names_in(config.cores or "all", CORES, "core")
    seeds = numbers_in(config.seeds, "seeds")
    for name in named:
        check_takes_part(name, wanted, TASKS[name].cores, "cores")
    if named:
        require_clean_tree()
    for seed in seeds:
        for name in named:
            for core in [core for core in TASKS[name].cores if core in wanted]:
                run = Run(name, core, seed)
                if not run.finished:
                    run.bring_to_its_end()
                if is_committed(run.path, commit_of(run.path)):
                    row = run.row()
                    print({key: row[key] for key in ("task", "core", "seed", "value", "bar")}, flush=True)
                    renew_csv(
                        RESULTS, [row], ["task", "core", "seed"], lambda r: list(TASKS).index(r["task"])
                    )
    put_table("ordinary_tasks", table(read_csv(RESULTS)), PAGE)
    return 0


if __name__ == "__main__":
    run_command(main)
