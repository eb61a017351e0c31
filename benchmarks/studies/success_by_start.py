"""Who turns back to look at the cue? Success in MiniGrid's memory task by the column in which a level begins.

    python -m benchmarks.studies.success_by_start                         every run of the study memory-s7-view3
    python -m benchmarks.studies.success_by_start --agents pretrained/memory-s13-lstm
    python -m benchmarks.studies.success_by_start --summary                print the table from the committed CSV

With view 3 the cue is in view at once from column 1 alone; from every other one the agent must turn back, which
takes steps and pays only if what was seen is remembered. Greedy policy, held-out levels; the rows of agents that
are measured again are replaced, all others stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.evaluation import LoadedAgent, load_agent, play_episodes
from agents.files import Row, read_csv, renew_csv
from agents.options import option, parse, run_command
from benchmarks.common import RESULTS_DIR, RUNS_DIR, machine_columns, marked, require_clean_tree
from envs import make_single
from envs.errors import UserError

RUNS = RUNS_DIR / "studies"
STUDY = "memory-s7-view3"
RESULTS = RESULTS_DIR / "memory_starts.csv"


@dataclass(frozen=True)
class StartsConfig:
    """Options of the command."""

    agents: str = option(STUDY, f"directories of runs, separated by commas; {STUDY}: all of that study")
    episodes: int = option(300, "held-out levels per agent")
    summary: bool = option(False, "play nothing: print the table from the committed CSV", switch=True)

    def directories(self) -> list[Path]:
        """The agents to play."""
        found = sorted(RUNS.glob(f"{STUDY}-*")) if self.agents == STUDY else map(Path, self.agents.split(","))
        directories = list(found)
        if not directories:
            raise UserError(
                f"no run of {STUDY}; make them with python -m benchmarks.studies.train_studies {STUDY}"
            )
        return directories


def start_columns(agent: LoadedAgent, seeds: Sequence[int]) -> list[int]:
    """The column of the agent's first cell in the levels of `seeds`."""
    env = make_single(agent.config.env, agent.config.env_arguments())
    if not env.has_wrapper_attr("agent_pos"):
        raise UserError(
            f"levels of {agent.config.env} have no column in which they begin; expected an agent of a MiniGrid "
            "task, such as pretrained/memory-s13-lstm"
        )
    columns = []
    for seed in seeds:
        env.reset(seed=seed)
        columns.append(int(env.get_wrapper_attr("agent_pos")[0]))
    return columns


def measure(directory: Path, episodes: int) -> list[dict[str, Any]]:
    """A row per column in which levels begin: their number, success and mean length."""
    agent = load_agent(directory, "latest", torch.device("cpu"))
    results = play_episodes(agent, episodes, "greedy")
    columns = np.array(start_columns(agent, [result.seed for result in results]))
    success, length = (
        np.array([getattr(result, name) for result in results]) for name in ("success", "length")
    )
    return [
        {
            "agent": directory.name,
            "core": agent.config.core,
            "column": column,
            "levels": int((columns == column).sum()),
            "success": round(float(success[columns == column].mean()), 3),
            "length": round(float(length[columns == column].mean()), 1),
            **machine_columns(),
        }
        for column in sorted(set(columns.tolist()))
    ]


def table() -> str:
    """A line per agent, a column per place where levels begin, from the CSV."""
    agents: dict[str, dict[str, Row]] = {}
    for row in read_csv(RESULTS):
        agents.setdefault(row["agent"], {})[row["column"]] = row
    places = sorted({column for rows in agents.values() for column in rows}, key=int)
    lines = ["| agent | " + " | ".join(f"begins in column {place}" for place in places) + " |"]
    lines.append("|" + "---|" * (len(places) + 1))
    for agent, rows in agents.items():
        figures = [
            f"{float(rows[place]['success']):.2f} ({rows[place]['length']} steps)" if place in rows else "-"
            for place in places
        ]
        lines.append(f"| {marked(agent, rows.values())} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(StartsConfig(), argv, description=__doc__ or "")
    if not config.summary:
        require_clean_tree()
        torch.set_num_threads(1)
        for directory in config.directories():
            rows = measure(directory, config.episodes)
            renew_csv(RESULTS, rows, ["agent"], lambda row: (row["agent"], int(row["column"])))
    print(table())
    return 0


if __name__ == "__main__":
    run_command(main)
