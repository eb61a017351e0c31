"""Training speed over processes (ranks): two processes on two cores against one process on one core.

    python -m benchmarks.speed.multi_process                                 write benchmarks/results/scaling.csv
    python -m benchmarks.speed.multi_process --cores lstm --rounds 20        one core, more rounds

One torchrun job does all of it: in every round rank 0 first trains alone while the others wait, then all
ranks train together, every rank with one thread on a core of its own. Two questions, each with its own ratio:

    weak      every rank brings --num-envs environments: more frames per update
    strong    --num-envs environments are shared out: the same update, sooner

A ratio is the median over the rounds of (frames/s together) / (frames/s alone) of the same round, so that a
busy moment of the machine falls on both. `cpu_ratio` counts CPU seconds instead, of the rank that needed most:
what is lost to exchange and unequal shares, without the waiting, which only a quiet machine can show.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from agents.config import TrainConfig, preset
from agents.distributed import ALONE, Ranks, join, leave
from agents.files import write_csv
from agents.options import option, parse, run_command
from agents.run_dir import cpu_model
from agents.trainer import Trainer
from benchmarks.common import RESULTS_DIR, machine_columns, require_clean_tree

RESULTS = RESULTS_DIR / "scaling.csv"


@dataclass(frozen=True)
class ScalingConfig:
    """Options of the command."""

    preset: str = option("maze", "configuration to measure", metavar="NAME")
    cores: str = option("lstm,gru,mnm-g,mnm-p", "memory cores, separated by commas", metavar="NAMES")
    num_envs: int = option(128, "environments of one rank (weak), and of all ranks together (strong)")
    ranks: int = option(2, "processes; at most the number of cores of the machine")
    rounds: int = option(10, "rounds; the median of their ratios counts")
    updates: int = option(2, "updates of each kind per round")


def options_of(config: ScalingConfig, core: str, num_envs: int, run_dir: Path) -> TrainConfig:
    changes: dict[str, Any] = {
        "core": core, "num_envs": num_envs, "threads": 1, "device": "cpu", "minibatch_cut": "even",
        "run_dir": str(run_dir),
    }  # fmt: skip
    return dataclasses.replace(preset(config.preset), **changes)


def rates(trainer: Trainer, updates: int) -> tuple[float, float]:
    """Frames per second over a few updates, and per CPU second of the busiest rank."""
    frames, started, cpu = trainer.collector.frames, time.perf_counter(), time.process_time()
    for _ in range(updates):
        trainer.advance()
    used = float(trainer.ranks.max(torch.tensor(time.process_time() - cpu)))
    frames = trainer.collector.frames - frames
    return frames / (time.perf_counter() - started), frames / used


def measure(config: ScalingConfig, ranks: Ranks, core: str, kind: str, folder: Path) -> dict[str, Any]:
    """Medians over the rounds: frames/s of one rank and of all, and their ratio."""
    total = config.num_envs * (ranks.count if kind == "weak" else 1)
    alone = Trainer(options_of(config, core, config.num_envs, folder / f"{core}-alone-{kind}-{ranks.rank}"))
    together = Trainer(options_of(config, core, total, folder / f"{core}-{kind}"), ranks=ranks)
    rounds = []
    for number in range(config.rounds + 1):
        one = rates(alone, config.updates) if ranks.leads else (1.0, 1.0)
        dist.barrier()
        everyone = rates(together, config.updates)
        if number > 0:  # The first round warms up.
            rounds.append((one, everyone))
    for trainer in (alone, together):
        trainer.close()
    return {
        "core": core,
        "kind": kind,
        "ranks": ranks.count,
        "num_envs_alone": config.num_envs,
        "num_envs_together": total,
        "fps_alone": round(statistics.median(one[0] for one, _ in rounds)),
        "fps_together": round(statistics.median(everyone[0] for _, everyone in rounds)),
        "ratio": round(statistics.median(everyone[0] / one[0] for one, everyone in rounds), 3),
        "cpu_ratio": round(statistics.median(everyone[1] / one[1] for one, everyone in rounds), 3),
    }


def launch(config: ScalingConfig, argv: Sequence[str]) -> int:
    """Run this module again under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               f"--nproc-per-node={config.ranks}", "-m", __spec__.name, *argv]  # fmt: skip
    return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(ScalingConfig(), argv, description=__doc__ or "")
    require_clean_tree()
    cores = config.cores.split(",")
    for core in cores:  # an unknown one is refused here, in one line, and not by every rank
        options_of(config, core, config.num_envs, Path())
    ranks = join()
    if ranks is ALONE:
        return launch(config, argv)
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[ranks.local % len(processors)]})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        # Only rank 0 writes, so every rank may have a folder of its own.
        for core in cores:
            for kind in ("weak", "strong"):
                rows.append(measure(config, ranks, core, kind, Path(folder)))
                if ranks.leads:
                    print(rows[-1], flush=True)
    if ranks.leads:
        write_table(config, rows)
    leave(ranks)
    return 0


def write_table(config: ScalingConfig, rows: list[dict[str, Any]]) -> None:
    """Print the table and write it as CSV."""
    about = {"preset": config.preset, "rounds": config.rounds, **machine_columns()}
    write_csv(RESULTS, [row | about for row in rows])
    print(f"torch {torch.__version__}, {cpu_model()}, preset {config.preset}, one thread per rank")
    print("| core | environments | one rank | ranks together | ratio |\n|---|---|---|---|---|")
    for row in rows:
        envs = f"{row['num_envs_alone']} -> {row['num_envs_together']} ({row['kind']})"
        print(
            f"| {row['core']} | {envs} | {row['fps_alone']:,} | {row['fps_together']:,} | {row['ratio']:.2f} |"
        )


if __name__ == "__main__":
    run_command(main)
