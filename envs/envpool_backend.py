"""EnvPool (environments in C++) in our convention: optional, 20 to 35 times faster than Python MiniGrid.

EnvPool resets like NEXT_STEP. Its own sign of the reset call, `info["elapsed_step"] == 0`, must agree with
"the row before was done", which is asserted at every step. Two peculiarities of its MiniGrid are corrected or
refused here:
    * A task that ends on the last permitted step is reported as truncated only. These tasks pay only on
      success, so a reward above 0 there is a termination. An end with reward 0 (the wrong object) cannot be
      told from a time-out.
    * `agent_view_size` other than 7 corrupts memory and may abort the process.
Rows must come in order, so batch_size == num_envs always. The state cannot be saved.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.actions import ActionCode
from envs.errors import UserError, nearest
from envs.minigrid_arrays import MissionRows, image_space, is_minigrid_id, mission_space
from envs.observations import OBSERVATION, leaves_of
from envs.vector import Flags, Observations, VecEnv, VecStep

DEFAULT_VIEW = 7
ENVS_PER_THREAD = 32
"""Fewer are served as fast by one thread, and the other cores are left to learning."""


def known_ids() -> list[str]:
    """The ids EnvPool can serve; empty where it is not installed."""
    try:
        import envpool
    except ImportError:
        return []
    return list(envpool.list_all_envs())


def refusal(name: str, env_kwargs: dict[str, Any]) -> str | None:
    """Why EnvPool cannot serve this id with these arguments, in one line; None if it can."""
    ids = known_ids()
    if not ids:
        return "EnvPool is not installed: pip install 'mnm-rl[envpool]', or use backend sync"
    if name not in ids:
        if "MultiRoom" in name:
            versions = ", ".join(one for one in ids if "MultiRoom" in one)
            return f"EnvPool does not know {name}; of MultiRoom it has only {versions} (use backend sync)"
        close = nearest(name, ids)
        return f"EnvPool does not know {name!r}" + (f"; nearest: {close}" if close else "")
    limit = "max_steps" if is_minigrid_id(name) else "max_episode_steps"
    for key, value in env_kwargs.items():
        if key == "agent_view_size" and is_minigrid_id(name):
            if value != DEFAULT_VIEW:
                return (
                    f"EnvPool is safe only with agent_view_size {DEFAULT_VIEW}, not {value}: use backend sync"
                )
        elif key != limit:
            return f"the env kwarg {key!r} cannot be passed to EnvPool ({limit!r} can): use backend sync"
        elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
            return f"{limit} must be a whole number of at least 1, not {value!r}"
    return None


def make_envpool(
    name: str, seeds: list[int], env_kwargs: dict[str, Any], actions: list[int] | None
) -> EnvPoolVecEnv:
    """Build one EnvPool environment `name` per seed, or say in one line why not."""
    reason = refusal(name, env_kwargs)
    if reason is not None:
        raise UserError(reason)
    import envpool

    limit = env_kwargs.get("max_steps", env_kwargs.get("max_episode_steps"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun: the ranks share the machine
    num_envs = len(seeds)
    pool = envpool.make(
        name,
        env_type="gymnasium",
        num_envs=num_envs,
        batch_size=num_envs,
        num_threads=max(1, min(cores, num_envs // ENVS_PER_THREAD)),
        env_seed=seeds,
        **({} if limit is None else {"max_episode_steps": limit}),
    )
    return EnvPoolVecEnv(pool, name, actions)


class EnvPoolVecEnv(VecEnv):
    """An EnvPool (or anything with its `reset`, `step` and spaces of one environment) in our convention."""

    def __init__(self, pool: Any, env_id: str, actions: list[int] | None = None) -> None:
        self.pool = pool
        self.backend = "envpool"
        self.num_envs = int(pool.num_envs)
        self._minigrid = is_minigrid_id(env_id)
        self.success_rule = "positive_return" if self._minigrid else None
        self._missions = MissionRows(self.num_envs) if self._minigrid else None
        leaves = leaves_of(pool.observation_space, env_id)
        self.observation_space = spaces.Dict({leaf.key: leaf.space for leaf in leaves})
        if self._minigrid:
            image, direction = self.observation_space["image"], self.observation_space["direction"]
            assert image.shape is not None
            self.observation_space = spaces.Dict(
                {"image": image_space(*image.shape[:2]), "direction": direction, "mission": mission_space()}
            )
        self._actions = ActionCode(pool.action_space, actions, env_id)
        self._action_dtype = pool.action_space.dtype
        self.action_space = self._actions.space
        self._done = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(self) -> Observations:
        observations, _ = self.pool.reset()
        self._done = np.zeros(self.num_envs, dtype=np.bool_)
        self.last_obs = self._encode(observations)
        self.last_is_first = np.ones(self.num_envs, dtype=np.bool_)
        return self.last_obs

    def step(self, actions: NDArray[np.int64]) -> VecStep:
        chosen = self._actions.decode(actions).astype(self._action_dtype)
        observations, rewards, terminated, truncated, info = self.pool.step(chosen)
        is_first: Flags = np.asarray(info["elapsed_step"]) == 0
        assert np.array_equal(is_first, self._done), "EnvPool must reset exactly the rows that were done"
        valid = ~is_first
        reward = np.asarray(rewards, np.float32) * valid
        terminated, truncated = (
            np.asarray(terminated, np.bool_) & valid,
            np.asarray(truncated, np.bool_) & valid,
        )
        if self._minigrid:
            terminated = terminated | (truncated & (reward > 0))
        self._done = terminated | truncated
        self.last_obs, self.last_is_first = self._encode(observations), is_first
        return VecStep(self.last_obs, is_first, reward, terminated, truncated, valid, None)

    def close(self) -> None:
        self.pool.close()

    def _encode(self, observations: Any) -> Observations:
        entries = observations if isinstance(observations, dict) else {OBSERVATION: observations}
        obs: Observations = {}
        for key, space in self.observation_space.items():
            assert space.shape is not None
            if key == "mission" and self._missions is not None:
                obs[key] = self._missions.encode(entries[key])
            else:
                obs[key] = np.asarray(entries[key], space.dtype).reshape(self.num_envs, *space.shape)
        return obs
