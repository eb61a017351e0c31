"""Train and evaluate the studies of the results table, and keep what they found as CSV.

    python -m benchmarks.studies.train_studies maze-11 --workers 2          one study, everything that is missing
    python -m benchmarks.studies.train_studies all --seeds 3                all of them
    python -m benchmarks.studies.train_studies maze-11 --cores lstm,mnm-p   some of its cores

Runs are kept under runs/studies and continued where they stopped, so the command can be interrupted at any
time and called again. Whatever exists is collected, unfinished runs too: benchmarks/results/studies holds one
row per run and its learning curve. `python -m benchmarks.report.results` makes tables and figures of them.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.files import renew_csv
from agents.metrics import format_number, read_metrics
from agents.options import option, parse, run_command, suggestion
from benchmarks.common import RESULTS_DIR, ROOT, RUNS_DIR, commit_of, is_committed, require_clean_tree
from benchmarks.report.seed_statistics import first_reach
from benchmarks.studies.studies import STUDIES, Study
from envs.errors import UserError

RUNS = RUNS_DIR / "studies"
RESULTS = RESULTS_DIR / "studies"
POLICIES = ("greedy", "sample")
THRESHOLDS = (0.5, 0.9, 0.98)
"""Training success rates (last 100 episodes) of which the frames and the wall time are reported."""
CURVE_POINTS = 60


@dataclass(frozen=True)
class TrainStudiesConfig:
    """Options of the command."""

    study: str = option("all", "name of a study, or all")
    cores: str = option("", "only these cores, separated by commas", metavar="NAMES")
    seeds: int | None = option(None, "training seeds 0 .. N-1; the study's own number if not given")
    workers: int = option(1, "runs at the same time, one thread each")
    collect: bool = option(False, "train nothing: only write the CSV files from the runs", switch=True)


@dataclass(frozen=True)
class Run:
    """One cell of a study: a core and a seed."""

    study: Study
    core: str
    seed: int

    @property
    def path(self) -> Path:
        """Where the run is kept."""
        return RUNS / f"{self.study.name}-{self.core.replace(' ', '-')}-s{self.seed}"

    @property
    def before(self) -> Run | None:
        """The run of the stage before, whose weights this one begins with."""
        return Run(STUDIES[self.study.after], self.core, self.seed) if self.study.after else None

    def frames_before(self) -> int:
        """Frames of all stages before."""
        if self.before is None:
            return 0
        return int(read_metrics(self.before.path / "metrics.csv")[-1]["frames"]) + self.before.frames_before()

    def evaluation(self, policy: str) -> Path:
        """Where its evaluation is kept."""
        return self.path / f"evaluation-{policy}.json"

    def is_done(self) -> bool:
        """Whether it was trained to its end and evaluated."""
        return all(self.evaluation(policy).exists() for policy in POLICIES)

    def is_trained(self) -> bool:
        """Whether its training is over: it has all its frames, or was evaluated, which comes afterwards."""
        log = self.path / "metrics.csv"
        rows = read_metrics(log) if log.exists() else []
        whole = bool(rows) and rows[-1]["frames"] >= self.study.total_steps
        return whole or any(self.evaluation(policy).exists() for policy in POLICIES)

    def commands(self) -> list[list[str]]:
        """What is still to be done: the training, or the rest of it, and the evaluations."""
        python = [sys.executable]
        train = [*python, "train_rl.py", "--run-dir", str(self.path)]
        if (self.path / "checkpoints" / "latest.pt").exists():
            train += ["--resume", "--total-steps", str(self.study.total_steps)]
        else:
            train += self.study.command(self.core, self.seed)
            if self.before is not None:
                train += ["--warm-start", str(self.before.path.relative_to(ROOT))]
        todo = [] if self.is_trained() else [train]
        for policy in POLICIES:
            if not self.evaluation(policy).exists():
                todo.append(
                    [*python, "evaluate.py", str(self.path), "--episodes", str(self.study.episodes),
                     "--policy", policy, "--json", str(self.evaluation(policy))]
                )  # fmt: skip
        return todo


def bring_to_its_end(run: Run) -> None:
    """Train and evaluate one run; does nothing if that was done."""
    run.path.parent.mkdir(parents=True, exist_ok=True)
    if run.before is not None and not run.before.is_done():
        bring_to_its_end(run.before)
        if not run.before.is_done():
            return
    for command in run.commands():
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"{run.path.name} failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            return
    print(f"{run.path.name} done", flush=True)


def row_of(run: Run) -> dict[str, Any]:
    """What is known of a run that was begun; blanks where it has not ended."""
    metrics = read_metrics(run.path / "metrics.csv")
    frames, wall = [m["frames"] for m in metrics], [m["wall_s"] for m in metrics]
    success = [m["success_rate"] for m in metrics]
    row: dict[str, Any] = {
        "study": run.study.name,
        "core": run.core,
        "seed": run.seed,
        "frames": int(frames[-1]),
        "frames_before": run.frames_before(),
        "wall_s": round(wall[-1]),
        "finished": run.is_done(),
    }
    for threshold in THRESHOLDS:
        row[f"frames_to_{threshold}"] = format_number(first_reach(frames, success, threshold))
        row[f"wall_s_to_{threshold}"] = format_number(first_reach(wall, success, threshold))
    for policy in POLICIES:
        path = run.evaluation(policy)
        found = json.loads(path.read_text()) if path.exists() else {}
        row[f"success_{policy}"] = _rounded(found.get("success_rate"))
        row[f"return_{policy}"] = _rounded(found.get("return_mean"))
        row[f"length_{policy}"] = _rounded(found.get("length_mean"))
        row[f"episodes_{policy}"] = found.get("episodes", "")
    row["commit"] = commit_of(run.path)
    row["options"] = shlex.join(run.study.command(run.core, run.seed))
    return row


def _rounded(value: float | None) -> str:
    return "" if value is None else format_number(round(value, 4))


def curve_of(run: Run) -> list[dict[str, Any]]:
    """At most CURVE_POINTS means over equal stretches of the run's training log."""
    metrics = read_metrics(run.path / "metrics.csv")
    name = "success_rate" if run.study.figure == "success" else "return_mean"
    points = [(m["frames"], m["wall_s"], m[name]) for m in metrics if not np.isnan(m[name])]
    rows = []
    for stretch in np.array_split(np.array(points), min(CURVE_POINTS, len(points))):
        frames, wall, value = stretch[-1][0], stretch[-1][1], stretch[:, 2].mean()
        rows.append(
            {"core": run.core, "seed": run.seed, "frames": int(frames), "wall_s": round(wall),
             run.study.figure: format_number(round(float(value), 4))}
        )  # fmt: skip
    return rows


def collect(study: Study, seeds: int) -> None:
    """Write the rows and curves of a study from its run directories; what is known of other runs stays.

    Runs from an uncommitted tree are not recorded.
    """
    runs = [Run(study, core, seed) for core in study.cores for seed in range(seeds)]
    begun = [
        run
        for run in runs
        if (run.path / "metrics.csv").exists() and is_committed(run.path, commit_of(run.path))
    ]
    rows = [row_of(run) for run in begun]
    curves = [row for run in begun for row in curve_of(run)]
    for path, found in ((study.rows_in(RESULTS), rows), (study.curves_in(RESULTS), curves)):
        renew_csv(
            path, found, ["core", "seed"], lambda row: (study.cores.index(row["core"]), int(row["seed"]))
        )


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(TrainStudiesConfig(), argv, description=__doc__ or "", positional="study")
    names = list(STUDIES) if config.study == "all" else [config.study]
    for name in names:
        if name not in STUDIES:
            raise UserError(
                f"unknown study {name!r}{suggestion(name, STUDIES)}; valid: all, {', '.join(STUDIES)}"
            )
    chosen = [core for core in config.cores.split(",") if core]
    studies = [STUDIES[name] for name in names]
    known = list(dict.fromkeys(core for study in studies for core in study.cores))
    for core in chosen:
        if core not in known:
            raise UserError(f"unknown core {core!r}{suggestion(core, known)}; valid: {', '.join(known)}")
    runs = [
        Run(study, core, seed)
        # Seed by seed, so that an unfinished table has every row with fewer seeds.
        for seed in range(max(config.seeds or study.seeds for study in studies))
        for study in studies
        for core in study.cores
        if seed < (config.seeds or study.seeds) and (not chosen or core in chosen)
    ]
    if not config.collect:
        require_clean_tree()
        with ThreadPoolExecutor(config.workers) as pool:
            list(pool.map(bring_to_its_end, runs))
    for study in studies:
        collect(study, config.seeds or study.seeds)
    return 0


if __name__ == "__main__":
    run_command(main)
