"""Training speed end to end: every core and both algorithms, against RecurrentPPO of sb3-contrib (and two more).

    python -m benchmarks.speed.end_to_end            the table, benchmarks/results/end_to_end.csv and .png
    python -m benchmarks.speed.end_to_end --both-cores       two ranks of ours, peers with one thread and with two
    python -m benchmarks.speed.end_to_end --quick    small rollouts, one round: to see that it works; writes nothing

MiniGrid-MemoryS7-v0 (left, right, forward), the same number of environments, rollout, epochs and minibatches,
embedding 128, LSTM 128, one thread of PyTorch, all in ONE process (with --both-cores ours are two processes, and the
peers take part twice, with one thread and with two). Every contestant makes one update to warm up; then all take
turns, one update each per round, and the fastest round counts. `sync` is Python MiniGrid for all; `envpool` is
MiniGrid in C++, which the peers cannot use. `fps_cpu` divides by the processor time of the process (of the busier of
two) instead of the time on the clock. Ratios are those to sb3-contrib, the faster one where it takes part twice;
skrl's PPO_RNN and a PPO of TorchRL take part where they are installed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from agents.config import TrainConfig, preset
from agents.files import read_csv, write_csv
from agents.options import option, parse, run_command
from agents.trainer import Trainer
from benchmarks.common import RESULTS_DIR, machine_columns, numbers_in, require_clean_tree
from benchmarks.report.speed_page import plot_bars, put_table
from benchmarks.speed.peers import Sb3Run, SkrlRun
from benchmarks.speed.ranked import RankedRun
from benchmarks.speed.torchrl_peer import TorchRLRun
from memory import CORE_NAMES

RESULTS = RESULTS_DIR / "end_to_end.csv"
RESULTS_OF_BOTH = RESULTS_DIR / "end_to_end_2.csv"
"""With --both-cores."""
PEER = "sb3-contrib"
PEERS: dict[str, Callable[[TrainConfig], Contestant]] = {PEER: Sb3Run, "skrl": SkrlRun, "torchrl": TorchRLRun}
"""Ratios are taken to the first; the others, called as their packages, take part where they are installed."""
BARS = {"lstm": 10.0, "mnm-p": 4.0}
"""PPO against the peer, at least; mnm-p with d = 64 and H = 4."""


@dataclass(frozen=True)
class EndToEndConfig:
    """Options of the command."""

    num_envs: str = option("16,64", "numbers of environments, separated by commas")
    rollout_steps: int = option(128, "steps per environment between updates")
    epochs: int = option(4, "PPO: passes over a rollout")
    minibatches: int = option(4, "PPO: minibatches per pass, of whole environments")
    memory_size: int = option(64, "mnm-p, mnm-g, hard: size d of keys and values")
    heads: int = option(4, "mnm-p, mnm-g, hard: heads")
    only: str = option(
        ",".join(CORE_NAMES), "cores to measure, separated by commas; fewer than all write nothing"
    )
    rounds: int = option(3, "updates of everyone; the fastest counts")
    both_cores: bool = option(
        False,
        "ours as two ranks, the peers with one thread and with two; writes end_to_end_2.csv",
        switch=True,
    )
    quick: bool = option(False, "one round of 16 environments and 16 steps, nothing is written", switch=True)
    summary: bool = option(
        False, "print the table and draw the plot from the committed CSV alone", switch=True
    )


class Contestant(Protocol):
    """Something that trains update by update; `cpu_s`, where it has one, is its own count of processor time."""

    def advance(self) -> int: ...

    def close(self) -> None: ...


def cpu_of(contestant: Contestant) -> float:
    """Processor seconds so far."""
    return float(getattr(contestant, "cpu_s", time.process_time()))


class OwnRun:
    """One of our trainers."""

    def __init__(self, config: TrainConfig) -> None:
        self.trainer = Trainer(config)

    def advance(self) -> int:
        """One rollout and one update; returns the frames played."""
        before = self.trainer.collector.frames
        self.trainer.advance()
        return self.trainer.collector.frames - before

    def close(self) -> None:
        """Release the environments."""
        self.trainer.close()


@dataclass(frozen=True)
class Entry:
    """One line of the table."""

    agent: str
    """A core of ours, or a peer."""
    algo: str
    backend: str
    num_envs: int
    workers: int = 1
    """Threads of a peer, ranks of ours."""

    def start(self, shared: TrainConfig, folder: str) -> Contestant:
        """Build it, ready for its first update."""
        threads = self.workers if self.agent in PEERS else 1
        shared = dataclasses.replace(shared, num_envs=self.num_envs, threads=threads)
        if self.agent in PEERS:
            return PEERS[self.agent](shared)
        run_dir = str(Path(folder) / f"{self.agent}-{self.algo}-{self.backend}-{self.num_envs}")
        changes: dict[str, Any] = {
            "core": self.agent, "algo": self.algo, "backend": self.backend, "run_dir": run_dir,
        }  # fmt: skip
        config = dataclasses.replace(shared, **changes)
        return OwnRun(config) if self.workers == 1 else RankedRun(config, self.workers)


def peers_at_hand() -> list[str]:
    """The peer that ratios are taken to, and those of the others that are installed."""
    missing = [name for name in PEERS if name != PEER and importlib.util.find_spec(name) is None]
    for name in missing:
        print(f"{name} is not installed and is left out: pip install 'mnm-rl[bench]'", flush=True)
    return [name for name in PEERS if name not in missing]


def entries(peers: Sequence[str], cores: Sequence[str], num_envs: int, both_cores: bool) -> list[Entry]:
    """The peers first; ours with EnvPool under both algorithms, and with the peers' own kind of environment."""
    workers = {True: (1, 2) if both_cores else (1,), False: (2,) if both_cores else (1,)}
    kinds = [
        *((peer, "ppo", "sync") for peer in peers),
        *((core, "ppo", "sync") for core in cores),
        *((core, algo, "envpool") for algo in ("ppo", "a2c") for core in cores),
    ]
    return [Entry(*kind, num_envs, n) for kind in kinds for n in workers[kind[0] in peers]]


def shared_settings(config: EndToEndConfig) -> TrainConfig:
    """What all contestants have in common."""
    return dataclasses.replace(
        preset("minigrid-memory"),
        rollout_steps=config.rollout_steps, epochs=config.epochs,
        minibatches=config.minibatches, memory_size=config.memory_size, heads=config.heads,
        threads=1, device="cpu",
    )  # fmt: skip


def measure(config: EndToEndConfig) -> list[dict[str, Any]]:
    """Rows of the table."""
    shared, sizes = shared_settings(config), numbers_in(config.num_envs, "num-envs")
    contestants = peers_at_hand()
    found = [
        entry
        for size in sizes
        for entry in entries(contestants, config.only.split(","), size, config.both_cores)
    ]
    fps, fps_cpu = dict.fromkeys(found, 0.0), dict.fromkeys(found, 0.0)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        running: dict[Entry, Contestant] = {}
        for entry in found:
            running[entry] = entry.start(shared, folder)
            stack.callback(running[entry].close)
            running[entry].advance()
        for number in range(config.rounds):
            for entry, contestant in running.items():
                # Threads are a setting of the whole process: each takes its turn with its own.
                torch.set_num_threads(entry.workers if entry.agent in contestants else 1)
                wall, cpu = time.perf_counter(), cpu_of(contestant)
                frames = contestant.advance()
                wall, cpu = time.perf_counter() - wall, cpu_of(contestant) - cpu
                fps[entry], fps_cpu[entry] = max(fps[entry], frames / wall), max(fps_cpu[entry], frames / cpu)
            print(f"round {number + 1} of {config.rounds} done", flush=True)
    by_speed = sorted(found, key=lambda entry: fps[entry])
    peers = {entry.num_envs: entry for entry in by_speed if entry.agent == PEER}  # the fastest comes last
    settings = {
        "env": shared.env, "rollout_steps": config.rollout_steps,
        "epochs": config.epochs, "minibatches": config.minibatches, "embedding": shared.embedding_size,
        "hidden": shared.hidden_size, "d": config.memory_size, "heads": config.heads,
    }  # fmt: skip
    return [
        {
            **dataclasses.asdict(entry),
            "fps": round(fps[entry]),
            "fps_cpu": round(fps_cpu[entry]),
            "ratio": round(fps[entry] / fps[peers[entry.num_envs]], 2),
            "ratio_cpu": round(fps_cpu[entry] / fps_cpu[peers[entry.num_envs]], 2),
            **settings,
            **machine_columns(),
        }
        for entry in found
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown, with its conditions above it."""
    first = rows[0]
    lines = [
        f"{first['env']}, rollouts of {first['rollout_steps']} steps, {first['epochs']} epochs of "
        f"{first['minibatches']} minibatches (A2C: one pass), embedding {first['embedding']}, hidden "
        f"{first['hidden']}, d = {first['d']}, H = {first['heads']}, {workers_of(rows)}; {first['date']}, "
        f"{first['cpu']}, {first['cores']} cores, torch {first['torch']}, commit {first['commit']}",
        "",
        "| environments | agent | algorithm | frames/s | against sb3-contrib | by processor time | bar |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        bar = BARS.get(row["agent"]) if row["algo"] == "ppo" else None
        lines.append(
            f"| {row['num_envs']} {row['backend']} | {agent_of(row)} | {row['algo']} | {int(row['fps']):,} | "
            f"{float(row['ratio']):.1f} | {float(row['ratio_cpu']):.1f} | {f'{bar:g}' if bar else ''} |"
        )
    return "\n".join(lines)


def agent_of(row: dict[str, Any]) -> str:
    """Name of a line: the agent, with its threads or ranks where it has more than one."""
    count, kind = int(row.get("workers", 1)), "threads" if row["agent"] in PEERS else "ranks"
    return row["agent"] if count == 1 else f"{row['agent']}, {count} {kind}"


def workers_of(rows: Sequence[dict[str, Any]]) -> str:
    """What of the machine the agents used."""
    if all(int(row.get("workers", 1)) == 1 for row in rows):
        return "one thread"
    return "two ranks of ours, peers with one thread and with two"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Frames/s of every line, beside the CSV; peers in brown, Python environments in grey."""
    colours = {"sync": "#9aa5b1", "envpool": "#3465a4"} | dict.fromkeys(PEERS, "#c17d11")
    plot_bars(
        path,
        [f"{row['num_envs']} {row['backend']}, {agent_of(row)}, {row['algo']}" for row in rows],
        [float(row["fps"]) for row in rows],
        [colours.get(row["agent"], colours[row["backend"]]) for row in rows],
        f"training frames per second on {rows[0]['env']}\n{workers_of(rows)}",
        [f"({float(row['ratio']):.1f}x)" for row in rows],
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(EndToEndConfig(), argv, description=__doc__ or "")
    if not (config.quick or config.summary):
        require_clean_tree()
    torch.set_num_threads(1)
    results = RESULTS_OF_BOTH if config.both_cores else RESULTS
    if config.quick:
        config = dataclasses.replace(config, num_envs="16", rollout_steps=16, rounds=1)
    rows: list[dict[str, Any]] = list(read_csv(results)) if config.summary else measure(config)
    print(table(rows))
    if not config.quick and config.only == EndToEndConfig.only:
        if not config.summary:
            write_csv(results, rows)
        put_table(results.stem, table(rows))
        plot(rows, results.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    run_command(main)
