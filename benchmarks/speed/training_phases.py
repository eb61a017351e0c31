"""Training speed by phase: frames per second of acting, stepping environments and learning, per core.

    python -m benchmarks.speed.training_phases                          Grid World maze, PPO and A2C, every core
    python -m benchmarks.speed.training_phases --preset minigrid-memory

Every core is trained for a few updates, in turn and `--repeats` times, and the fastest repeat counts, so
that a busy moment of the machine does not fall on one core alone. Writes benchmarks/results/phases-PRESET.csv.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agents.config import preset
from agents.files import write_csv
from agents.options import option, parse, run_command
from agents.trainer import Trainer
from benchmarks.common import RESULTS_DIR, machine_columns, require_clean_tree
from memory import CORE_NAMES
from memory.mnm.cpp_backend.build import KernelUnavailable, find_kernel

PHASES = ("act", "env", "learn", "all")
NEURAL = ("mnm-g", "mnm-p")
"""Cores that have more than one implementation."""


@dataclass(frozen=True)
class PhasesConfig:
    """Options of the command."""

    preset: str = option("maze", "configuration to measure", metavar="NAME")
    updates: int = option(5, "updates per measurement")
    repeats: int = option(3, "measurements per row")
    threads: int = option(1, "threads of PyTorch")
    cores: str = option(",".join(CORE_NAMES), "cores to measure, separated by commas", metavar="NAMES")


def rows_to_measure(config: PhasesConfig) -> list[tuple[str, str, str]]:
    """(algorithm, core, implementation); the compiled one where it can be had."""
    fast = ["fused"] if isinstance(find_kernel(), KernelUnavailable) else ["fused", "compiled"]
    return [
        (algo, core, implementation)
        for algo in ("ppo", "a2c")
        for core in config.cores.split(",")
        for implementation in (fast if core in NEURAL else ["auto"])
    ]


def measure(config: PhasesConfig, algo: str, core: str, implementation: str) -> dict[str, float]:
    """Frames per second of each phase over a few updates, after one to warm up."""
    with tempfile.TemporaryDirectory() as folder:
        row: dict[str, Any] = {"core": core, "algo": algo, "implementation": implementation}
        row |= {"threads": config.threads, "run_dir": folder}
        trainer = Trainer(dataclasses.replace(preset(config.preset), **row))
        trainer.advance()
        trainer.stopwatch.seconds.clear()
        frames, started = trainer.collector.frames, time.perf_counter()
        for _ in range(config.updates):
            trainer.advance()
        seconds = time.perf_counter() - started
        frames = trainer.collector.frames - frames
        trainer.close()
    spent = {**trainer.stopwatch.seconds, "all": seconds}
    return {phase: frames / spent[phase] for phase in PHASES}


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(PhasesConfig(), argv, description=__doc__ or "")
    require_clean_tree()
    best: dict[tuple[str, str, str], dict[str, float]] = {}
    for _ in range(config.repeats):
        for kind in rows_to_measure(config):
            rates, known = measure(config, *kind), best.get(kind, {})
            best[kind] = {phase: max(rates[phase], known.get(phase, 0.0)) for phase in PHASES}
    rows: list[list[Any]] = [
        [*kind, *(round(rates[phase]) for phase in PHASES)] for kind, rates in best.items()
    ]
    names = ["algo", "core", "implementation", *(f"{phase}_fps" for phase in PHASES)]
    machine = machine_columns()
    write_csv(
        RESULTS_DIR / f"phases-{config.preset}.csv",
        [{**dict(zip(names, row, strict=True)), **machine} for row in rows],
    )
    print(f"torch {torch.__version__}, {config.threads} thread(s), preset {config.preset}")
    print(
        "| algorithm | core | implementation | act | env step | learn | all |\n|---|---|---|---|---|---|---|"
    )
    for algo, core, implementation, *values in rows:
        print(
            f"| {algo} | {core} | {implementation} | " + " | ".join(f"{value:,}" for value in values) + " |"
        )
    return 0


if __name__ == "__main__":
    run_command(main)
