"""The environments' ids, registered with Gymnasium as soon as it is loaded: `import envs` alone does not load it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """What Gymnasium is told of an id."""

    env_id: str
    single: str
    vector: str | None = None
    kwargs: dict[str, Any] = {}  # noqa: RUF012


MAZE = "envs.maze:GridMaze", "envs.maze_vector:GridMazeVector"
PAIRS = "envs.pair_bandit:PairBandit", "envs.pair_bandit:PairBanditVector"
IDS = (
    Entry("mnm/GridMaze-v0", *MAZE),
    *(Entry(f"mnm/GridMaze{side}-v0", *MAZE, {"side": side}) for side in (9, 11, 13)),
    Entry("mnm/PairBandit-v0", *PAIRS),
    Entry("mnm/DoorMaze-v0", *PAIRS),
    Entry("mnm/TreasureMaze-v0", "envs.treasure_maze:TreasureMaze", "envs.treasure_maze:TreasureMazeVector"),
    Entry("mnm/IslandGraph-v0", "envs.island_graph:IslandGraph", "envs.island_graph:IslandGraphVector"),
    Entry("mnm/TMaze-v0", "envs.tmaze:TMaze"),
    Entry("mnm/CueMaze-v0", "envs.cue_maze:CueMaze"),
    Entry("mnm/RepeatPrevious-v0", "envs.repeat_previous:RepeatPrevious"),
)


def register() -> None:
    """Register ours, and by importing it those of MiniGrid."""
    import gymnasium
    import minigrid  # noqa: F401  registers the MiniGrid and BabyAI ids

    for env_id, single, vector, kwargs in IDS:
        gymnasium.register(env_id, entry_point=single, vector_entry_point=vector, kwargs=kwargs)


class OnceGymnasiumIsLoaded:
    """An importer that loads nothing itself; it registers after whichever one loads Gymnasium."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                register()

            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


def register_when_loaded() -> None:
    """Register at once where Gymnasium is there, else when it comes."""
    if "gymnasium" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, OnceGymnasiumIsLoaded())
