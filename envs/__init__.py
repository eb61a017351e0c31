"""Environments: one convention for observations, actions, seeds and autoreset, whatever stands behind it.

Importing this package registers with Gymnasium: `mnm/GridMaze-v0` (and GridMaze9, GridMaze11, GridMaze13:
fixed side), `mnm/PairBandit-v0` (also under the name of its picture, `mnm/DoorMaze-v0`),
`mnm/TreasureMaze-v0`, `mnm/IslandGraph-v0`, `mnm/TMaze-v0`, `mnm/CueMaze-v0` and `mnm/RepeatPrevious-v0`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.ids import register_when_loaded
from envs.lazy import lazy

if TYPE_CHECKING:
    from envs.errors import UserError
    from envs.make import BACKENDS, make_shown, make_single, make_vec, success_rule
    from envs.registry import EnvLike, id_of
    from envs.seeds import held_out_seed, train_seeds
    from envs.vector import VecEnv, VecStep

HOMES = {
    "envs.errors": "UserError",
    "envs.make": "BACKENDS make_shown make_single make_vec success_rule",
    "envs.registry": "EnvLike id_of",
    "envs.seeds": "held_out_seed train_seeds",
    "envs.vector": "VecEnv VecStep",
}
"""Where the public names come from."""

__all__, __getattr__ = lazy(__name__, HOMES)

register_when_loaded()
