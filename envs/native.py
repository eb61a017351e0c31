"""What all vectors of our own share: N environments as arrays, each with a random generator of its own.

The generators are seeded as `SyncVectorEnv` seeds N single environments, so that a vector and its single form give
the same episodes if they draw in the same order. Autoreset is SAME_STEP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

Array = NDArray[Any]


class NativeVector(VectorEnv[Any, Any, Any]):
    """A subclass names its arrays in `saved`, opens episodes in `_open`, and ends its `step` with `_close`."""

    saved: ClassVar[tuple[str, ...]] = ()
    """Names of the arrays [N, ...] that decide the future; `get_state` moves them through JSON."""

    def __init__(
        self, num_envs: int, observation_space: spaces.Box, actions: int, render_mode: str | None
    ) -> None:
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = observation_space
        self._shape = observation_space.shape
        self.single_action_space = spaces.Discrete(actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.generators: list[np.random.Generator] = []
        self.rows = np.arange(num_envs)

    def _seeded(self, i: int, seed: int) -> None:
        """Take note of the seed of environment i, which `reset` has just been given."""

    def _open(self, rows: Array, observations: Array) -> None:
        """Begin an episode in these environments and write their first observations, all of them 0, in place."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Reset all. `seed` as in SyncVectorEnv: None goes on, an int s means s, s + 1, ..., or a list."""
        if options and "reset_mask" in options:
            raise ValueError(f"{type(self).__name__} resets itself; options['reset_mask'] is not supported")
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        seeds = [None] * self.num_envs if seeds is None else list(seeds)
        if len(seeds) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} seeds, one per environment, got {len(seeds)}")
        if not self.generators:
            self.generators = [seeding.np_random(None)[0] for _ in seeds]
        for i, one in enumerate(seeds):
            if one is not None:
                self.generators[i] = seeding.np_random(one)[0]
                self._seeded(i, one)
        observations = self._blank()
        self._open(self.rows, observations)
        return observations, {}

    def _blank(self) -> Array:
        return np.zeros((self.num_envs, *self._shape), dtype=np.float32)

    def _close(
        self, observations: Array, rewards: Array, terminated: Array, truncated: Array
    ) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """The answer of `step`: last observations of ended episodes are put aside, and new ones opened in place."""
        done = terminated | truncated
        info: dict[str, Any] = {}
        if done.any():
            ended = np.flatnonzero(done)
            final_obs = np.full(self.num_envs, None, dtype=object)
            for i in ended:
                final_obs[i] = observations[i].copy()
            info = {"final_obs": final_obs, "_final_obs": done.copy()}
            observations[ended] = 0.0
            self._open(ended, observations)
        return observations, rewards, terminated, truncated, info

    def get_state(self) -> dict[str, Any]:
        """Everything that decides the future, as JSON types (the generators' states are Python integers)."""
        state: dict[str, Any] = {name: getattr(self, name).tolist() for name in self.saved}
        return state | {"generators": [generator.bit_generator.state for generator in self.generators]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where `get_state` was called."""
        held = len(state["generators"])
        if held != self.num_envs:
            raise ValueError(f"the state holds {held} environments, this vector has {self.num_envs}")
        for name in self.saved:
            setattr(self, name, np.array(state[name], dtype=getattr(self, name).dtype))
        self.generators = [seeding.np_random(0)[0] for _ in range(held)]
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.bit_generator.state = saved
