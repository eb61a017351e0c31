"""What is a memory worth? Returns of players written by hand, from guessing to knowing everything.

    python -m benchmarks.studies.ceilings                play, write benchmarks/results/ceilings.csv
    python -m benchmarks.studies.ceilings --summary      print the table from the committed CSV

    random       every action with the same probability
    memoryless   a player that acts on the present observation alone: exact in the pair bandit; in the treasure
                 maze a fixed route through the room, and straight to the wanted object when it is in view (an
                 agent may do better)
    remembers    a player that reads observations and forgets nothing: the best possible in the pair bandit, the
                 best that we wrote elsewhere
    knows        a player that is told what is hidden; no agent can know it
The player of the Grid World mazes has a command of its own (`maze_ceiling`), from whose CSV its return is read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents.files import read_csv, write_csv
from agents.options import check_at_least, option, parse, run_command
from benchmarks.common import RESULTS_DIR, machine_columns, require_clean_tree
from benchmarks.players import Player, RandomPlayer, islands, maze, returns_of, treasure
from benchmarks.studies import maze_ceiling
from envs.island_graph import IslandGraph
from envs.maze import GridMaze
from envs.pair_bandit import PairBandit
from envs.treasure_maze import TreasureMaze

RESULTS = RESULTS_DIR / "ceilings.csv"
Kwargs = dict[str, Any]

BANDITS: tuple[Kwargs, ...] = (
    *({"contexts": n} for n in (8, 16, 32, 64)),
    *({"contexts": n, "rounds": 6, "feedback": "reward"} for n in (8, 16)),
)
SHOWN: Kwargs = {"tour": True, "view": 1, "shaping": 0.2}
"""The variant that is learnt; in larger rooms with `patience`."""
TREASURES: tuple[Kwargs, ...] = (
    {"side": 7, "objects": 6, "max_steps": 48, **SHOWN},
    {"side": 9, "objects": 8, "max_steps": 64, **SHOWN},
    {"side": 11, "objects": 10, "max_steps": 96, **SHOWN},
    {"side": 7, "objects": 6, "max_steps": 48, **SHOWN, "patience": 12},
    {"side": 9, "objects": 8, "max_steps": 64, **SHOWN, "patience": 12},
    {"side": 11, "objects": 10, "max_steps": 96, **SHOWN, "patience": 12},
    *({"side": side} for side in (7, 9, 11)),
    {"side": 9, "tour": True},
    {"side": 9, "tour": True, "view": 1},
    {"side": 9, "wanted": "seen"},
    {"side": 9, "pillars": True},
)
ISLANDS: tuple[Kwargs, ...] = (
    {"islands": 3, "names": 5},
    {"islands": 4, "names": 5},
    {},
    {"graphs": "fixed"},
)
MAZES = (9, 11, 13)


@dataclass(frozen=True)
class CeilingsConfig:
    """Options of the command."""

    episodes: int = option(100, "held-out episodes per player and task")
    summary: bool = option(False, "play nothing: print the table from the committed CSV", switch=True)

    def __post_init__(self) -> None:
        check_at_least(self, 1, "episodes")


def row(task: str, kwargs: Kwargs, **returns: float | None) -> dict[str, Any]:
    """One row of the CSV, still without episodes and machine."""
    rounded = {name: "" if value is None else round(value, 1) for name, value in returns.items()}
    return {"task": task, "kwargs": json.dumps(kwargs), **rounded}


def bandit_row(kwargs: Kwargs) -> dict[str, Any]:
    """Exact."""
    rules = PairBandit(**kwargs).rules
    forgets = rules.memoryless_return
    return row(
        "mnm/PairBandit-v0", kwargs,
        random=forgets, memoryless=forgets, remembers=rules.optimal_return, knows=float(rules.length),
    )  # fmt: skip


def treasure_row(kwargs: Kwargs, episodes: int) -> dict[str, Any]:
    """Played. The memoryless route is made for rooms without pillars."""
    env = TreasureMaze(**kwargs)

    def mean(player: Player) -> float:
        return float(returns_of(player, env, episodes).mean())

    return row(
        "mnm/TreasureMaze-v0", kwargs,
        random=mean(RandomPlayer(4)),
        memoryless=None if env.rules.pillars else mean(treasure.Forgets(env.rules)),
        remembers=mean(treasure.Remembers(env.rules)),
        knows=mean(treasure.Knows(env)),
    )  # fmt: skip


def island_row(kwargs: Kwargs, episodes: int) -> dict[str, Any]:
    """Played."""
    env = IslandGraph(**kwargs)
    players = RandomPlayer(env.rules.transports), islands.Remembers(env), islands.Knows(env)
    random, remembers, knows = (float(returns_of(player, env, episodes).mean()) for player in players)
    return row("mnm/IslandGraph-v0", kwargs, random=random, memoryless=None, remembers=remembers, knows=knows)


def maze_row(side: int, episodes: int) -> dict[str, Any]:
    """Played, but for the player with a memory."""
    env = GridMaze(side)
    random, knows = (
        float(returns_of(player, env, episodes).mean()) for player in (RandomPlayer(4), maze.Knows(env))
    )
    (found,) = (float(line["return"]) for line in read_csv(maze_ceiling.RESULTS) if int(line["side"]) == side)
    return row(
        "mnm/GridMaze-v0", {"side": side}, random=random, memoryless=None, remembers=found, knows=knows
    )


def measure(episodes: int) -> list[dict[str, Any]]:
    """All rows of the CSV."""
    rows = [bandit_row(kwargs) for kwargs in BANDITS]
    rows += [treasure_row(kwargs, episodes) for kwargs in TREASURES]
    rows += [island_row(kwargs, episodes) for kwargs in ISLANDS]
    rows += [maze_row(side, episodes) for side in MAZES]
    return [each | {"episodes": episodes} | machine_columns() for each in rows]


def table() -> str:
    """A line per task, from the CSV."""
    lines = ["| task | env kwargs | random | memoryless | remembers | knows |", "|---|---|---|---|---|---|"]
    for each in read_csv(RESULTS):
        values = (each[name] or "-" for name in ("random", "memoryless", "remembers", "knows"))
        lines.append(f"| {each['task']} | `{each['kwargs']}` | {' | '.join(values)} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(CeilingsConfig(), argv, description=__doc__ or "")
    if not config.summary:
        require_clean_tree()
        write_csv(RESULTS, measure(config.episodes))
    print(table())
    return 0


if __name__ == "__main__":
    run_command(main)
