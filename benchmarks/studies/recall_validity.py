"""The validity report of trained agents: what recall scores find, and what fails.

    python -m benchmarks.studies.recall_validity                train what is missing, check it, write the CSV
    python -m benchmarks.studies.recall_validity --summary      print the tables from the committed CSV alone
    python -m benchmarks.studies.recall_validity --cores lstm,gru       some cores; rows of others stay in the CSV

T-maze (with two and with three arms), cue maze and MiniGrid's memory task, `--seeds` seeds each. mnm-p and mnm-g have
three controllers:

    lstm          the controller can carry the cue in its own state
    feedforward   it has no state, but the value read is fed back to it, which is a recurrent path as well
    memory-only   feed-forward and without read feedback: what was written is the only path through time

MiniGrid's agents (lstm controller alone) are those that `train_studies memory-s13-staged` left, if it has run.
`three-arms` is the T-maze with a middle arm that is right when no cue was shown: there an agent cannot remember
one of the cues by remembering nothing. The control agents were trained where the cue stays visible. Runs are
kept under runs/recall-validity and are trained once, in this process, on one thread.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from agents.config import TrainConfig
from agents.evaluation import load_agent
from agents.files import read_csv, renew_csv, write_text
from agents.options import option, parse, run_command
from agents.trainer import Trainer
from benchmarks.common import RESULTS_DIR, RUNS_DIR, commit_of, names_in, require_clean_tree
from recall.validate.checks import Limits
from recall.validate.validity import check_recall

RUNS = RUNS_DIR / "recall-validity"
RESULTS = RESULTS_DIR / "recall_validity.csv"
WRITING = ("mnm-p", "mnm-g")
CORES = ("lstm", "gru", *WRITING)
CONTROLLERS = ("memory-only", "lstm", "feedforward")
"""Of the cores that write. All others carry a state, and nothing else."""
STATE = "state"
MINIGRID = "memory-s13"
TASKS: dict[str, dict[str, Any]] = {
    "three-arms": {"env": "mnm/TMaze-v0", "env_kwargs": '{"length": 12, "middle_arm": true}'},
    "tmaze": {"env": "mnm/TMaze-v0", "env_kwargs": '{"length": 12}'},
    "cuemaze": {"env": "mnm/CueMaze-v0", "env_kwargs": '{"length": 8}'},
    "visible": {"env": "mnm/TMaze-v0", "env_kwargs": '{"length": 12, "always_visible": true}'},
}
FRAMES = {"three-arms": 200_000, "tmaze": 150_000, "cuemaze": 250_000, "visible": 60_000}
SETTINGS: dict[str, Any] = {
    "num_envs": 64, "rollout_steps": 32, "minibatches": 2, "hidden_size": 64, "embedding_size": 64,
    "memory_size": 32, "learning_rate": 3e-3, "anneal": True, "gamma": 0.95, "normalize_rewards": False,
    "target_kl": 0.0, "meta_coef": 0.0, "threads": 1, "device": "cpu", "checkpoint_every": 1000,
}  # fmt: skip
"""Named, so that they stay when defaults move: with a constant rate and gamma 0.99 most agents end unsolved.
The memory's own loss is off: in these tasks it is met by target values near 0, and mnm-g then stores nothing."""


@dataclass(frozen=True)
class RecallValidityConfig:
    """Options of the command."""

    seeds: int = option(3, "training seeds per row")
    episodes: int = option(200, "held-out episodes per report")
    cores: str = option(",".join(CORES), "cores to train and check, separated by commas")
    controllers: str = option(",".join(CONTROLLERS), "controllers of mnm-p and mnm-g, separated by commas")
    trained_only: bool = option(False, "train nothing; check the runs that exist", switch=True)
    summary: bool = option(False, "print the table from the committed CSV and stop", switch=True)


@dataclass(frozen=True)
class Run:
    """One trained agent."""

    task: str
    core: str
    controller: str
    seed: int

    @property
    def path(self) -> Path:
        """Where the run is kept."""
        if self.task == MINIGRID:
            return RUNS_DIR / "studies" / f"memory-s13-staged-{self.core}-s{self.seed}"
        return RUNS / f"{self.task}-{self.core}-{self.controller}-s{self.seed}"

    @property
    def control(self) -> Run:
        """The agent of the same kind for which everything is visible; one seed serves all."""
        return Run("visible", self.core, self.controller, 0)

    @property
    def trained(self) -> bool:
        """Whether the training reached its end."""
        return (self.path / ("evaluation-greedy.json" if self.task == MINIGRID else "trained")).exists()

    def config(self) -> TrainConfig:
        """The training configuration."""
        core: Any = self.core
        own: dict[str, Any] = {} if self.controller == STATE else {
            "controller": "lstm" if self.controller == "lstm" else "feedforward",
            "read_feedback": self.controller != "memory-only",
        }  # fmt: skip
        return TrainConfig(
            core=core, seed=self.seed, run_dir=str(self.path), total_steps=FRAMES[self.task], **own,
            **TASKS[self.task], **SETTINGS,
        )  # fmt: skip

    def train(self) -> None:
        """Train the agent; nothing to do if it is done, or is done elsewhere."""
        if self.trained or self.task == MINIGRID:
            return
        print(f"training {self.path.name}", flush=True)
        resume = (self.path / "checkpoints" / "latest.pt").exists()
        trainer = Trainer(self.config(), resume)
        trainer.run()
        trainer.close()
        success = trainer.collector.episodes.summary()["success_rate"]
        print(f"    success {success:.2f} after {trainer.wall_s:.0f} s", flush=True)
        write_text(self.path / "trained", "")


def all_runs(seeds: int, cores: Sequence[str], controllers: Sequence[str]) -> list[Run]:
    """Seed by seed, so that an unfinished table has every row with fewer seeds."""
    return [
        Run(task, core, controller, seed)
        for seed in range(seeds)
        for core in cores
        for task in (*TASKS, MINIGRID)
        for controller in (controllers if core in WRITING else (STATE,))
        if (task != "visible" or seed == 0) and (task != MINIGRID or controller in ("lstm", STATE))
    ]


def check(run: Run, episodes: int) -> dict[str, Any]:
    """The report of one run as JSON; made once and kept in the run's directory."""
    path = run.path / f"recall-{episodes}.json"
    if not path.exists():
        print(f"checking {run.path.name}", flush=True)
        device = torch.device("cpu")
        has_control = run.control.trained and run.task != MINIGRID
        control = load_agent(run.control.path, "latest", device) if has_control else None
        report = check_recall(load_agent(run.path, "latest", device), episodes, run.seed, control)
        write_text(path, json.dumps(report.to_json(), indent=1) + "\n")
        with (run.path / "recall.txt").open("w") as file:
            report.print(Console(file=file, width=180))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def row_of(run: Run, report: dict[str, Any]) -> dict[str, Any]:
    """The line of the CSV."""
    rankings = {ranking["name"]: ranking for ranking in report["rankings"]}
    outcomes = {entry["name"]: entry["outcome"] for entry in report["checks"]}
    row: dict[str, Any] = {
        "task": run.task,
        "core": run.core,
        "controller": run.controller,
        "seed": run.seed,
        "frames": report["agent"]["frames"],
        "episodes": report["agent"]["episodes"],
        "success": round(report["agent"]["success"], 3),
    }
    for name, ranking in rankings.items():
        row[f"hit@1 {name}"] = round(ranking["hit_1"][0], 3)
        if "hit_1_shown" in ranking:
            row[f"shown {name}"] = round(ranking["shown"], 3)
            row[f"hit@1 shown {name}"] = round(ranking["hit_1_shown"][0], 3)
    for name, ranking in rankings.items():
        row[f"hit@5 {name}"] = round(ranking["hit_5"][0], 3)
        row[f"MRR {name}"] = round(ranking["mrr"][0], 3)
        if ranking["seconds"]:
            row[f"seconds {name}"] = round(ranking["seconds"], 2)
    for measure, label in (
        ("share of changed actions", "flips by"),
        ("share of actions changed by wiping before the decision", "flips by"),
    ):
        for form, share in report["measures"].get(measure, {}).items():
            row[f"{label} {form}"] = share
    values = {entry["name"]: entry["values"] for entry in report["checks"]}
    if residual := values.get("interaction residual"):
        row["rho"], row["rho symmetrised"] = round(residual["rho"], 3), round(residual["rho_symmetrised"], 3)
    for form, name in (
        ("remove top step", "removal flips"),
        ("remove random step", "random removal does not"),
    ):
        if name in values:
            row[f"flips by {form}"] = round(values[name]["flips"], 3) if "flips" in values[name] else ""
    row["commit"] = commit_of(run.path)
    row |= {f"check {name}": outcome for name, outcome in outcomes.items()}
    row["valid"] = report["valid"]
    return row


SCORES = ["R0 key match", "R1 last layer", "R2 removal", "keep only one", "symmetrised", "R3 re-applied",
          "R4 decision", "write strength", "recency", "best fixed lag", "random"]  # fmt: skip
WRITES = {
    **{f"hit@1 {name}": f"hit@1 {name}" for name in SCORES},
    "action changed: top 5 deleted": "flips by delete top", "5 random": "flips by delete random",
    "memory wiped": "flips by wipe memory", "controller wiped": "flips by wipe controller", "rho": "rho",
}  # fmt: skip
"""Columns of the table of written memories, and those of the CSV."""
ALL_CORES = {
    "hit@1 R5": "hit@1 R5 step removal", "where not grey": "hit@1 shown R5 step removal",
    "not grey": "shown R5 step removal", "hit@1 held": "hit@1 R5 held observation",
    "held, where not grey": "hit@1 shown R5 held observation", "hit@1 R4": "hit@1 R4 decision",
    "hit@1 R2": "hit@1 R2 removal", "best fixed lag": "hit@1 best fixed lag",
    "action changed: top step removed": "flips by remove top step", "random step": "flips by remove random step",
    "top 5 writes deleted": "flips by delete top", "5 random writes": "flips by delete random",
}  # fmt: skip
"""Columns of the table over all cores."""


def summarise(rows: list[dict[str, str]], columns: dict[str, str]) -> str:
    """A table in Markdown: means over the seeds."""
    lines = [
        f"| task | core | controller | success, by seed | {' | '.join(columns)} | valid |",
        "|" + "---|" * (len(columns) + 5),
    ]
    keys = list(dict.fromkeys((row["task"], row["core"], row["controller"]) for row in rows))
    for key in keys:
        found = [row for row in rows if (row["task"], row["core"], row["controller"]) == key]
        cells = [*key, ", ".join(row["success"] for row in found)]
        for column in columns.values():
            values = [float(row[column]) for row in found if row.get(column)]
            cells.append(f"{np.mean(values):.2f}" if values else "-")
        cells.append(f"{sum(row['valid'] == 'True' for row in found)} of {len(found)}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(RecallValidityConfig(), argv, description=__doc__ or "")
    torch.set_num_threads(1)
    cores = names_in(config.cores, CORES, "core")
    controllers = names_in(config.controllers, CONTROLLERS, "controller")
    if not config.summary:
        require_clean_tree()
        runs = all_runs(config.seeds, cores, controllers)
        if not config.trained_only:
            for run in runs:
                run.train()
        rows = [
            row_of(run, check(run, config.episodes)) for run in runs if run.trained and run.task != "visible"
        ]
        if not rows:
            print("no trained run was found", file=sys.stderr)
            return 1
        renew_csv(RESULTS, rows, ("task", "core", "controller", "seed"))
    found = read_csv(RESULTS)
    print(summarise([row for row in found if row["core"] in WRITING], WRITES))
    print()
    print(summarise([row for row in found if float(row["success"]) >= Limits().success], ALL_CORES))
    return 0


if __name__ == "__main__":
    run_command(main)
