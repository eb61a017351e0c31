"""What does an agent remember with: its written memory, or what its controller carries?

    python -m benchmarks.studies.memory_deletion                            every published agent that writes
    python -m benchmarks.studies.memory_deletion --agents pretrained/maze-mnm-p,runs/studies/maze-11-ppo-mnm-p-s0
    python -m benchmarks.studies.memory_deletion --summary                  print the table from the committed CSV

Every agent plays the same held-out episodes four times (sampled policy): whole, and losing after every step
what it wrote, what its controller carries, or both. That is `evaluate.py --forget`. The rows of agents that
are measured again are replaced, all others stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.evaluation import bootstrap_interval, load_agent, play_episodes
from agents.files import Row, read_csv, renew_csv
from agents.options import option, parse, run_command
from benchmarks.common import RESULTS_DIR, ROOT, machine_columns, marked, require_clean_tree
from recall.scores.intervene import FORGET, write_memory_of

PRETRAINED = ROOT / "pretrained"
RESULTS = RESULTS_DIR / "forgetting.csv"


@dataclass(frozen=True)
class ForgettingConfig:
    """Options of the command."""

    agents: str = option(
        "pretrained",
        "directories of runs, separated by commas; pretrained: every published agent that writes",
    )
    episodes: int = option(200, "held-out episodes per agent and loss")
    summary: bool = option(False, "play nothing: print the table from the committed CSV", switch=True)


def measure(directory: Path, episodes: int) -> list[dict[str, Any]]:
    """One row per thing that is lost: mean return and success with 95% intervals over episodes."""
    agent = load_agent(directory, "latest", torch.device("cpu"))
    write_memory_of(agent.model)
    rows = []
    for lost, take in FORGET.items():
        results = play_episodes(agent, episodes, "sample", between_steps=take)
        returns = np.array([result.episode_return for result in results])
        low, high = bootstrap_interval(returns)
        rows.append(
            {
                "agent": directory.name,
                "env": agent.config.env,
                "core": agent.config.core,
                "frames": agent.frames,
                "lost": lost,
                "return": round(float(returns.mean()), 3),
                "low": round(low, 3),
                "high": round(high, 3),
                "success": round(float(np.mean([result.success for result in results])), 3),
                "episodes": episodes,
                **machine_columns(),
            }
        )
    return rows


def table() -> str:
    """A line per agent, a column per loss, from the CSV."""
    agents: dict[str, dict[str, Row]] = {}
    for row in read_csv(RESULTS):
        agents.setdefault(row["agent"], {})[row["lost"]] = row
    lines = [
        "| agent | environment | whole | loses the written memory | loses the controller's | loses both |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for agent, rows in agents.items():
        figures = " | ".join(_figure(rows[lost]) for lost in FORGET)
        lines.append(f"| {marked(agent, rows.values())} | {rows['nothing']['env']} | {figures} |")
    return "\n".join(lines)


def _figure(row: Row) -> str:
    digits = 1 if abs(float(row["return"])) >= 10 else 2
    mean, low, high = (f"{float(row[name]):.{digits}f}" for name in ("return", "low", "high"))
    return f"{mean} ({low} to {high})"


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(ForgettingConfig(), argv, description=__doc__ or "")
    if not config.summary:
        require_clean_tree()
        torch.set_num_threads(1)
        named = [Path(name) for name in config.agents.split(",")]
        directories = sorted(PRETRAINED.glob("*-mnm-?")) if config.agents == PRETRAINED.name else named
        for directory in directories:
            renew_csv(RESULTS, measure(directory, config.episodes), ["agent"])
    print(table())
    return 0


if __name__ == "__main__":
    run_command(main)
