"""MiniGrid and BabyAI observations as arrays of categories, before anything is vectorised.

A mission string blocks shared memory and fast vectorising, and the numbers of an image are names, not
quantities. So
    image      MultiDiscrete [h, w, 3]: object (11), colour (6), state (4: doors have 3, an agent's direction 4)
    direction  Discrete(4)
    mission    MultiDiscrete [24]: one id per word, 1 + crc32(word) mod 255; 0 = padding; the rest is cut
Word ids need no vocabulary and are the same in every process and for every backend.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from minigrid.core.constants import COLOR_TO_IDX, DIR_TO_VEC, OBJECT_TO_IDX, STATE_TO_IDX
from minigrid.core.mission import MissionSpace
from numpy.typing import NDArray

from envs.observations import Tokens

MISSION_WORDS = 24
WORD_IDS = 256
IMAGE_CATEGORIES = (len(OBJECT_TO_IDX), len(COLOR_TO_IDX), max(len(STATE_TO_IDX), len(DIR_TO_VEC)))
PREFIXES = ("MiniGrid-", "BabyAI-")
_WORD = re.compile(r"[a-z0-9]+")


def is_minigrid_id(name: str) -> bool:
    """Whether an environment id (without a module) belongs to MiniGrid or BabyAI."""
    return name.startswith(PREFIXES)


@lru_cache(maxsize=65536)
def encode_mission(mission: str) -> NDArray[np.int64]:
    """Word ids [24] of one mission, lower case, without punctuation. The array is shared and read-only."""
    ids = np.zeros(MISSION_WORDS, dtype=np.int64)
    for place, word in enumerate(_WORD.findall(mission.lower())[:MISSION_WORDS]):
        ids[place] = 1 + zlib.crc32(word.encode()) % (WORD_IDS - 1)
    ids.flags.writeable = False
    return ids


class MissionRows:
    """Encodes EnvPool's missions, uint8 [N, bytes] padded with zeros; looks only at rows that changed."""

    def __init__(self, num_envs: int) -> None:
        self.ids = np.zeros((num_envs, MISSION_WORDS), dtype=np.int64)
        self._last: NDArray[np.uint8] | None = None

    def encode(self, missions: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Word ids [N, 24] as a fresh array."""
        changed = np.ones(len(missions), dtype=np.bool_)
        if self._last is not None:
            changed = (missions != self._last).any(axis=1)
        for i in np.flatnonzero(changed):
            text = missions[i].tobytes().split(b"\0", 1)[0].decode("utf-8", errors="replace")
            self.ids[i] = encode_mission(text)
        self._last = missions.copy()
        return self.ids.copy()


def image_space(height: int, width: int) -> spaces.MultiDiscrete:
    """[h, w, 3] categories of the cells in view."""
    categories = np.tile(np.array(IMAGE_CATEGORIES, dtype=np.uint8), (height, width, 1))
    return spaces.MultiDiscrete(categories, dtype=np.uint8)  # type: ignore[arg-type]


def mission_space() -> Tokens:
    """[24] word ids."""
    return Tokens([WORD_IDS] * MISSION_WORDS)


def has_mission(space: gymnasium.Space[Any]) -> bool:
    """Whether a space is a Dict with a mission text in it, as MiniGrid's is."""
    return isinstance(space, spaces.Dict) and any(isinstance(one, MissionSpace) for one in space.values())


class MiniGridArrays(gymnasium.ObservationWrapper[dict[str, Any], Any, dict[str, Any]]):
    """Turns the dict observations of one MiniGrid or BabyAI environment into arrays of categories.

    An "image" that is not a grid of cells (MiniGrid's wrappers can make it a picture) keeps its space.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        entries = dict(env.observation_space.spaces)
        self._missions = [key for key, entry in entries.items() if isinstance(entry, MissionSpace)]
        for key in self._missions:
            entries[key] = mission_space()
        grid = env.unwrapped
        view = getattr(grid, "agent_view_size", None)
        cells = [(view, view, 3), (getattr(grid, "width", None), getattr(grid, "height", None), 3)]
        shape = entries["image"].shape if "image" in entries else None
        if shape is not None and shape in cells:
            entries["image"] = image_space(*shape[:2])
        self.observation_space = spaces.Dict(entries)

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        return observation | {key: encode_mission(observation[key]) for key in self._missions}
