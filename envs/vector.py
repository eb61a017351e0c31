"""One convention for every vectorised environment, whichever dialect of autoreset stands behind it.

    SAME_STEP   an ended environment is reset inside the call that ends it: the observation returned opens
                the next episode, the last one of the old episode is in `info["final_obs"]`, and every call
                is a transition.
    NEXT_STEP   an ended environment is reset by the next call, whose action is ignored and which is not a
                transition.

The rows are kept as the environment delivers them; `valid` and `is_first` say what they are. With d_t the
done flag:
    SAME_STEP   valid_t = true            is_first_{t+1} = d_t
    NEXT_STEP   valid_{t+1} = not d_t     is_first_{t+1} = not valid_t
"""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs.encoding import OBSERVATION, action_table, dict_space
from envs.errors import UserError

Observations = dict[str, NDArray[Any]]
Flags = NDArray[np.bool_]


class VecStep(NamedTuple):
    """The answer of N environments to one call of `VecEnv.step`."""

    obs: Observations
    """[N, ...] what the policy sees in the next row."""
    is_first: Flags
    """[N] that observation opens an episode."""
    reward: NDArray[np.float32]
    """[N] 0 on invalid rows."""
    terminated: Flags
    """[N] the task is over; false on invalid rows."""
    truncated: Flags
    """[N] the clock stopped the episode; false on invalid rows. Both flags may be raised."""
    valid: Flags
    """[N] the call was a real transition, not the one that merely resets an environment."""
    final_obs: Observations | None
    """[N, ...] SAME_STEP: the last observation of episodes that ended now; other rows arbitrary. None if none did"""


class VecEnv(ABC):
    """N environments that speak our convention. Made by `make_vec`."""

    num_envs: int
    backend: str
    """native, sync, async or envpool: what really runs."""
    observation_space: spaces.Dict
    """Of one environment."""
    action_space: spaces.Discrete
    """Of one environment."""
    success_rule: str | None = None
    """"positive_return": an episode is a success if its return is above 0; None: success is not defined."""
    resumable: bool = False
    """Whether `snapshot` gives a text that `restore` continues from exactly."""
    last_obs: Observations
    """What the policy sees in the coming row; also set by `restore`."""
    last_is_first: Flags
    """Whether that observation opens an episode; also set by `restore`."""

    @abstractmethod
    def reset(self) -> Observations:
        """Begin an episode everywhere. The first call uses the seeds, later ones the random streams."""

    @abstractmethod
    def step(self, actions: NDArray[np.int64]) -> VecStep:
        """One call of every environment with actions [N]."""

    @abstractmethod
    def close(self) -> None:
        """Free processes and windows."""

    def snapshot(self) -> str | None:
        """JSON text from which an equal VecEnv continues exactly, or None where that is impossible."""
        return None

    def restore(self, text: str) -> None:
        """Continue from a snapshot; sets `last_obs` and `last_is_first`."""
        raise UserError(
            f"environments of the {self.backend} backend cannot be restored; their episodes begin anew"
        )


class GymnasiumVecEnv(VecEnv):
    """Any `gymnasium.vector.VectorEnv`, SAME_STEP or NEXT_STEP, in our convention.

    It can be restored exactly if it is native and has `get_state() -> dict` (of JSON types) and
    `set_state(dict)`, or if it is a sync or async vector of environments wrapped in `envs.replay.Replay`.
    """

    def __init__(
        self,
        vector: Any,
        seed: int | None,
        backend: str,
        env_id: str = "environment",
        actions: list[int] | None = None,
        success_rule: str | None = None,
    ) -> None:
        mode = vector.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
            name = mode.value if isinstance(mode, AutoresetMode) else repr(mode)
            raise UserError(
                f"{env_id}: autoreset mode {name} is not supported; expected SameStep or NextStep"
            )
        self.vector = vector
        self.backend = backend
        self.num_envs = vector.num_envs
        self.success_rule = success_rule
        self.observation_space = dict_space(vector.single_observation_space, env_id)
        self._table = action_table(vector.single_action_space, actions, env_id)
        self.action_space = spaces.Discrete(len(self._table))
        self._has_state = hasattr(vector, "get_state") and hasattr(vector, "set_state")
        self.resumable = self._has_state or backend in ("sync", "async")
        self._same_step = mode == AutoresetMode.SAME_STEP
        self._is_dict = isinstance(vector.single_observation_space, spaces.Dict)
        self._seed = seed
        self._due = np.zeros(self.num_envs, dtype=np.bool_)
        """NEXT_STEP: environments that the coming call resets."""

    def reset(self) -> Observations:
        observations, _ = self.vector.reset(seed=self._seed)
        self._seed = None
        self._due = np.zeros(self.num_envs, dtype=np.bool_)
        self.last_obs = self._as_dict(observations)
        self.last_is_first = np.ones(self.num_envs, dtype=np.bool_)
        return self.last_obs

    def step(self, actions: NDArray[np.int64]) -> VecStep:
        observations, rewards, terminated, truncated, info = self.vector.step(self._table[actions])
        obs = self._as_dict(observations)
        terminated, truncated = np.asarray(terminated, np.bool_), np.asarray(truncated, np.bool_)
        reward = np.asarray(rewards, np.float32)
        final_obs = None
        if self._same_step:
            is_first = terminated | truncated
            valid = np.ones(self.num_envs, dtype=np.bool_)
            if is_first.any():
                final_obs = self._final_obs(obs, info, is_first)
        else:
            is_first = self._due
            valid = ~is_first
            reward, terminated, truncated = reward * valid, terminated & valid, truncated & valid
            self._due = terminated | truncated
        self.last_obs, self.last_is_first = obs, is_first
        return VecStep(obs, is_first, reward, terminated, truncated, valid, final_obs)

    def close(self) -> None:
        self.vector.close()

    def snapshot(self) -> str | None:
        if not self.resumable:
            return None
        saved: dict[str, Any] = {"due": self._due.tolist(), "is_first": self.last_is_first.tolist()}
        if self._has_state:
            saved["state"] = self.vector.get_state()
            saved["obs"] = {key: value.tolist() for key, value in self.last_obs.items()}
        else:
            saved["state"] = self.vector.call("replay_snapshot")
        return json.dumps(saved)

    def restore(self, text: str) -> None:
        if not self.resumable:
            super().restore(text)
        saved = json.loads(text)
        if len(saved["due"]) != self.num_envs:
            raise UserError(f"the snapshot holds {len(saved['due'])} environments, expected {self.num_envs}")
        self.reset()
        self._due = np.array(saved["due"], dtype=np.bool_)
        self.last_is_first = np.array(saved["is_first"], dtype=np.bool_)
        if self._has_state:
            self.vector.set_state(saved["state"])
            self.last_obs = {
                key: np.array(saved["obs"][key], dtype=value.dtype) for key, value in self.last_obs.items()
            }
            return
        self.vector.set_attr("replay_data", saved["state"])
        fresh = 0
        for i, (observation, exact) in enumerate(self.vector.call("replay_restore")):
            for key, value in self.last_obs.items():
                value[i] = observation[key]
            if not exact:
                self._due[i], self.last_is_first[i] = False, True
                fresh += 1
        if fresh:
            warnings.warn(
                f"{fresh} of {self.num_envs} environments did not repeat their episode when restored "
                "(they keep state outside np_random); a fresh episode was started there",
                stacklevel=2,
            )

    def _as_dict(self, observations: Any) -> Observations:
        return dict(observations) if self._is_dict else {OBSERVATION: observations}

    def _final_obs(self, obs: Observations, info: dict[str, Any], done: Flags) -> Observations:
        """Arrays [N, ...] from Gymnasium's object array of one observation per ended environment."""
        final = {key: value.copy() for key, value in obs.items()}
        last = info["final_obs"]
        for key, value in final.items():
            for i in np.flatnonzero(done):
                if not self._is_dict:
                    value[i] = last[i]
                else:  # some native vectors give one dict of arrays instead
                    value[i] = last[key][i] if isinstance(last, dict) else last[i][key]
        return final
