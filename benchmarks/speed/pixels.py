"""Training speed on pictures of 84 x 84 x 3 with the core none, beside another commit of this toolkit.

    python -m benchmarks.speed.pixels --against ../old       a worktree; benchmarks/results/pixels.csv, docs/speed.md
    python -m benchmarks.speed.pixels --quick                one small update each; writes nothing

Every contestant is a process of its own, built and warmed up by one update; then they take turns, one update each per
round, and the fastest round counts, by the processor time of its process. 16 environments, rollouts of 64 steps, one
thread; PPO makes four passes of eight minibatches.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.files import write_csv
from agents.options import option, parse, run_command
from benchmarks.common import RESULTS_DIR, ROOT, machine_columns, require_clean_tree
from benchmarks.report.speed_page import put_table
from envs.errors import UserError

RESULTS = RESULTS_DIR / "pixels.csv"
BARS = {"a2c": 1_000, "ppo": 350}
"""Frames per second of processor time, at least."""
WORKER = """
import dataclasses, sys, tempfile, time
tree, envs, algo, num_envs, steps = sys.argv[1:]
sys.path[:0] = [tree, envs]
from agents.config import TrainConfig
from agents.trainer import Trainer
trainer = Trainer(dataclasses.replace(
    TrainConfig(), env="random_pictures:RandomPictures-v0", core="none", algo=algo, num_envs=int(num_envs),
    rollout_steps=int(steps), minibatches=8, threads=1, run_dir=tempfile.mkdtemp() + "/run"))
for line in sys.stdin:
    frames, begun = trainer.collector.frames, time.process_time()
    trainer.advance()
    print((trainer.collector.frames - frames) / (time.process_time() - begun), flush=True)
trainer.close()
"""


@dataclass(frozen=True)
class PixelsConfig:
    """Options of the command."""

    against: str = option("", "worktree of another commit, measured in turns with this one", metavar="DIR")
    num_envs: int = option(16, "environments")
    rollout_steps: int = option(64, "steps per environment between updates")
    rounds: int = option(5, "updates of everyone; the fastest counts")
    quick: bool = option(False, "one small update each, nothing is written", switch=True)


class Contestant:
    """A trainer in a process of its own, from the code of one worktree."""

    def __init__(self, tree: Path, algo: str, config: PixelsConfig) -> None:
        argv = [
            str(tree),
            str(ROOT / "benchmarks" / "speed"),
            algo,
            str(config.num_envs),
            str(config.rollout_steps),
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *argv],
            cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def advance(self) -> float:
        """One rollout and one update; returns the frames per second of processor time."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise UserError("a contestant has ended; its own error is above")
        return float(answer)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def measure(config: PixelsConfig) -> list[dict[str, Any]]:
    """Rows of the table."""
    trees = [ROOT, *([Path(config.against).resolve()] if config.against else [])]
    if not (trees[-1] / "agents").is_dir():
        raise UserError(f"--against {config.against} is no worktree of this toolkit: it has no agents/")
    best: dict[tuple[Path, str], float] = {}
    with ExitStack() as stack:
        running = {}
        for tree in trees:
            for algo in BARS:
                running[tree, algo] = Contestant(tree, algo, config)
                stack.callback(running[tree, algo].close)
                running[tree, algo].advance()
        for _ in range(config.rounds):
            for key, contestant in running.items():
                best[key] = max(best.get(key, 0.0), contestant.advance())
    return [
        {
            "tree": commit_of(tree), "algo": algo, "fps_cpu": round(fps, 1), "bar": BARS[algo] if tree == ROOT else "",
            "ratio": round(fps / best[trees[-1], algo], 2), "num_envs": config.num_envs,
            "rollout_steps": config.rollout_steps, **machine_columns(),
        }
        for (tree, algo), fps in best.items()
    ]  # fmt: skip


def commit_of(tree: Path) -> str:
    """The commit of a worktree."""
    command = ["git", "-C", str(tree), "describe", "--always", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown, with its conditions above it."""
    first = rows[0]
    lines = [
        f"Pictures of 84 x 84 x 3, core none, {first['num_envs']} environments, rollouts of {first['rollout_steps']} "
        f"steps, PPO with four passes of eight minibatches, one thread, by processor time; {first['date']}, "
        f"{first['cpu']}, torch {first['torch']}",
        "",
        "| commit | algorithm | frames/s | ratio | bar |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        bar = f"{int(row['bar']):,}" if row["bar"] else ""
        lines.append(
            f"| {row['tree']} | {row['algo']} | {float(row['fps_cpu']):,.0f} | {row['ratio']} | {bar} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(PixelsConfig(), argv, description=__doc__ or "")
    if config.quick:
        config = PixelsConfig(config.against, num_envs=8, rollout_steps=8, rounds=1, quick=True)
    else:
        require_clean_tree()
    rows = measure(config)
    print(table(rows))
    if not config.quick:
        write_csv(RESULTS, rows)
        put_table("pixels", table(rows))
    return 0


if __name__ == "__main__":
    run_command(main)
