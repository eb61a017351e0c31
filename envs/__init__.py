"""Environments: one convention for observations, actions, seeds and autoreset, whatever stands behind it.

Importing this package registers with Gymnasium: `mnm/GridMaze-v0` (and GridMaze9, GridMaze11, GridMaze13:
fixed side), `mnm/PairBandit-v0` (also under the name of its picture, `mnm/DoorMaze-v0`),
`mnm/TreasureMaze-v0`, `mnm/IslandGraph-v0`, `mnm/TMaze-v0`, `mnm/CueMaze-v0` and `mnm/RepeatPrevious-v0`.
"""

from __future__ import annotations

import gymnasium
import minigrid  # noqa: F401  registers the MiniGrid and BabyAI ids

from envs.errors import UserError
from envs.make import BACKENDS, make_shown, make_single, make_vec, success_rule
from envs.registry import EnvLike, id_of
from envs.seeds import held_out_seed, train_seeds
from envs.vector import VecEnv, VecStep

__all__ = [
    "BACKENDS",
    "EnvLike",
    "UserError",
    "VecEnv",
    "VecStep",
    "held_out_seed",
    "id_of",
    "make_shown",
    "make_single",
    "make_vec",
    "success_rule",
    "train_seeds",
]


def _register() -> None:
    mazes: list[tuple[str, dict[str, int]]] = [("mnm/GridMaze-v0", {})]
    mazes += [(f"mnm/GridMaze{side}-v0", {"side": side}) for side in (9, 11, 13)]
    for env_id, kwargs in mazes:
        gymnasium.register(
            env_id,
            entry_point="envs.maze:GridMaze",
            vector_entry_point="envs.maze_vector:GridMazeVector",
            kwargs=kwargs,
        )
    for env_id in ("mnm/PairBandit-v0", "mnm/DoorMaze-v0"):
        gymnasium.register(
            env_id,
            entry_point="envs.pair_bandit:PairBandit",
            vector_entry_point="envs.pair_bandit:PairBanditVector",
        )
    gymnasium.register(
        "mnm/TreasureMaze-v0",
        entry_point="envs.treasure_maze:TreasureMaze",
        vector_entry_point="envs.treasure_maze:TreasureMazeVector",
    )
    gymnasium.register(
        "mnm/IslandGraph-v0",
        entry_point="envs.island_graph:IslandGraph",
        vector_entry_point="envs.island_graph:IslandGraphVector",
    )
    gymnasium.register("mnm/TMaze-v0", entry_point="envs.tmaze:TMaze")
    gymnasium.register("mnm/CueMaze-v0", entry_point="envs.cue_maze:CueMaze")
    gymnasium.register("mnm/RepeatPrevious-v0", entry_point="envs.repeat_previous:RepeatPrevious")


_register()
