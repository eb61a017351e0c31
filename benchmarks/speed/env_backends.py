"""Environment backends alone: steps per second without learning.

    python -m benchmarks.speed.env_backends            the table, benchmarks/results/backends.csv and .png
    python -m benchmarks.speed.env_backends --quick    a fifth of a second each; writes nothing

Random actions drawn beforehand; a step is one environment answering one action. The backends of a task take turns,
and the fastest round of each counts. async uses one process per environment, envpool one thread per 32.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from agents.files import read_csv, write_csv
from agents.options import option, parse, run_command
from benchmarks.common import RESULTS_DIR, machine_columns, require_clean_tree
from benchmarks.report.speed_page import plot_bars, put_table
from envs import VecEnv, make_vec

RESULTS = RESULTS_DIR / "backends.csv"
TASKS = {
    "mnm/GridMaze9-v0": ("native", "sync", "async"),
    "MiniGrid-MemoryS7-v0": ("envpool", "sync", "async"),
}
SIZES = (16, 64, 256)
MOST_PROCESSES = 16
"""async is measured up to this many environments: each is a process."""


@dataclass(frozen=True)
class EnvBackendsConfig:
    """Options of the command."""

    rounds: int = option(3, "measurements of every backend; the fastest counts")
    seconds: float = option(1.0, "seconds per measurement")
    quick: bool = option(False, "one short round of the smallest size, nothing is written", switch=True)
    summary: bool = option(
        False, "print the table and draw the plot from the committed CSV alone", switch=True
    )


def steps_per_second(env: VecEnv, actions: NDArray[np.int64], seconds: float) -> float:
    """Steps over all environments per second on the clock, for about `seconds`."""
    calls, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        for row in actions:
            env.step(row)
        calls += len(actions)
    return calls * env.num_envs / spent


def measure(config: EnvBackendsConfig, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of the table."""
    rows = []
    for task, backends in TASKS.items():
        for size in sizes:
            names = [name for name in backends if name != "async" or size <= MOST_PROCESSES]
            running = {name: make_vec(task, size, 0, name) for name in names}
            best = dict.fromkeys(names, 0.0)
            for env in running.values():
                env.reset()
            generator = np.random.default_rng(0)
            for _ in range(config.rounds):
                for name, env in running.items():
                    assert isinstance(env.action_space, Discrete)
                    actions = generator.integers(int(env.action_space.n), size=(8, size))
                    best[name] = max(best[name], steps_per_second(env, actions, config.seconds))
            for env in running.values():
                env.close()
            rows += [
                {
                    "env": task,
                    "num_envs": size,
                    "backend": name,
                    "steps_per_s": round(best[name]),
                    "against_sync": round(best[name] / best["sync"], 2),
                    **machine_columns(),
                }
                for name in names
            ]
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown, with its conditions above it."""
    first = rows[0]
    lines = [
        f"Random actions, no learning; {first['date']}, {first['cpu']}, {first['cores']} cores, "
        f"commit {first['commit']}",
        "",
        "| environment | environments | backend | steps/s | against sync |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['env']} | {row['num_envs']} | {row['backend']} | {int(row['steps_per_s']):,} | "
        f"{float(row['against_sync']):.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Steps/s of every line, beside the CSV."""
    colours = {"native": "#4e9a06", "envpool": "#3465a4", "sync": "#9aa5b1", "async": "#c4a000"}
    plot_bars(
        path,
        [f"{row['env']}, {row['num_envs']}, {row['backend']}" for row in rows],
        [float(row["steps_per_s"]) for row in rows],
        [colours[row["backend"]] for row in rows],
        "environment steps per second, no learning",
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(EnvBackendsConfig(), argv, description=__doc__ or "")
    if not (config.quick or config.summary):
        require_clean_tree()
    sizes: Sequence[int] = SIZES
    if config.quick:
        config, sizes = dataclasses.replace(config, rounds=1, seconds=0.2), SIZES[:1]
    rows: list[dict[str, Any]] = list(read_csv(RESULTS)) if config.summary else measure(config, sizes)
    print(table(rows))
    if not config.quick:
        if not config.summary:
            write_csv(RESULTS, rows)
        put_table("backends", table(rows))
        plot(rows, RESULTS.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    run_command(main)
