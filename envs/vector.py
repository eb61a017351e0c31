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

import contextlib
import json
import multiprocessing
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs.actions import ActionCode
from envs.door import refuse_normalizers
from envs.errors import EnvFault, UserError, first_line
from envs.observations import leaves_of

SILENT = 100
"""A level of Gymnasium's log above all others."""
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
    success: NDArray[np.float64] | None = None
    """[N] 1 or 0 where an episode ended whose environment told success, else NaN; None if none told."""


class VecEnv(ABC):
    """N environments that speak our convention. Made by `make_vec`."""

    num_envs: int
    backend: str
    """native, sync, async or envpool: what really runs."""
    observation_space: spaces.Dict
    """Of one environment."""
    action_space: gymnasium.Space[Any]
    """What the agent chooses from in one environment (`envs/actions.py`)."""
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
    def step(self, actions: NDArray[Any]) -> VecStep:
        """One call of every environment with choices [N], or [N, W] where a choice is a vector."""

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
        actions: ActionCode | None = None,
        success_rule: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """`actions` of environments that stand behind a door; a native vector's own are decoded here.

        `timeout`: seconds that an async vector may take for one step.
        """
        if backend == "native":
            refuse_normalizers(vector, env_id)
        mode = vector.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
            name = mode.value if isinstance(mode, AutoresetMode) else repr(mode)
            raise UserError(
                f"{env_id}: autoreset mode {name} is not supported; expected SameStep or NextStep"
            )
        self.vector, self.backend, self.env_id, self.timeout = vector, backend, env_id, timeout
        self.num_envs = vector.num_envs
        self.success_rule = success_rule
        self._leaves = leaves_of(vector.single_observation_space, env_id)
        self.observation_space = spaces.Dict({leaf.key: leaf.space for leaf in self._leaves})
        self._code = actions or ActionCode(vector.single_action_space, None, env_id)
        self._decodes = backend not in ("sync", "async") or actions is None
        self.action_space = self._code.space
        self._has_state = hasattr(vector, "get_state") and hasattr(vector, "set_state")
        self.resumable = self._has_state or backend in ("sync", "async")
        self._same_step = mode == AutoresetMode.SAME_STEP
        self._seed = seed
        self._steps = 0
        self._due = np.zeros(self.num_envs, dtype=np.bool_)
        """NEXT_STEP: environments that the coming call resets."""

    def reset(self) -> Observations:
        with self._faults():
            observations, _ = self.vector.reset(seed=self._seed)
        self._seed = None
        self._due = np.zeros(self.num_envs, dtype=np.bool_)
        self.last_obs = self._as_dict(observations)
        self.last_is_first = np.ones(self.num_envs, dtype=np.bool_)
        return self.last_obs

    def step(self, actions: NDArray[Any]) -> VecStep:
        observations, rewards, terminated, truncated, info = self._call(
            self._code.decode(actions) if self._decodes else actions
        )
        self._steps += 1
        obs = self._as_dict(observations)
        terminated, truncated = np.asarray(terminated, np.bool_), np.asarray(truncated, np.bool_)
        reward = self._rewards(rewards)
        final_obs, ended = None, terminated | truncated
        if self._same_step:
            is_first = ended
            valid = np.ones(self.num_envs, dtype=np.bool_)
            if is_first.any():
                final_obs = self._final_obs(obs, info, is_first)
        else:
            is_first = self._due
            valid = ~is_first
            reward, terminated, truncated = reward * valid, terminated & valid, truncated & valid
            ended = self._due = terminated | truncated
        self.last_obs, self.last_is_first = obs, is_first
        success = told_by(info, ended) if ended.any() else None
        return VecStep(obs, is_first, reward, terminated, truncated, valid, final_obs, success)

    def close(self) -> None:
        if self.backend != "async":
            self.vector.close()
            return
        # A worker that is gone or hangs would keep an orderly end waiting.
        with contextlib.suppress(Exception):
            broken = any(not p.is_alive() for p in self.vector.processes)
            for process in self.vector.processes if broken else []:
                process.kill()
            self.vector.close(terminate=broken, timeout=5)

    def _call(self, actions: Any) -> Any:
        with self._faults():
            if self.backend != "async":
                return self.vector.step(actions)
            self.vector.step_async(actions)
            return self.vector.step_wait(timeout=self.timeout)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Whatever ends a call of the vector as one line; workers' tracebacks are in the fault, not in the log."""
        level = gymnasium.logger.min_level
        gymnasium.logger.min_level = SILENT
        try:
            yield
        except UserError:
            raise
        except multiprocessing.TimeoutError:
            silent = [i for i, pipe in enumerate(self.vector.parent_pipes) if not pipe.poll(0)]
            for process in self.vector.processes:
                process.kill()
            raise self._fault(
                f"environment {silent} has not answered for {self.timeout:g} s (--env-timeout)"
            ) from None
        except (EOFError, ConnectionError) as error:
            if self.backend != "async":
                raise self._fault(
                    f"{type(error).__name__}: {first_line(error)}", traceback.format_exc()
                ) from error
            gone = [i for i, process in enumerate(self.vector.processes) if not process.is_alive()]
            raise self._fault(
                f"the worker process of environment {gone} has ended (killed, or out of memory)"
            ) from None
        except (Exception, SystemExit) as error:
            raise self._fault(
                f"{type(error).__name__}: {first_line(error)}", traceback.format_exc()
            ) from error
        finally:
            gymnasium.logger.min_level = level

    def _fault(self, what: str, trace: str = "") -> EnvFault:
        return EnvFault(f"{self.env_id}: step {self._steps}: {what}", trace)

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
        """Checked copies; what passed a door was checked there."""
        if self.backend in ("sync", "async"):
            return {leaf.key: np.array(leaf.take(observations)) for leaf in self._leaves}
        obs: Observations = {}
        for leaf in self._leaves:
            try:
                obs[leaf.key] = leaf.encode(leaf.take(observations), (self.num_envs,))
            except (ValueError, KeyError, IndexError, TypeError) as error:
                raise self._fault(f"observation {leaf.key!r}: {error}") from None
        return obs

    def _rewards(self, rewards: Any) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            reward = np.asarray(rewards, np.float32)
        if not np.isfinite(reward).all():
            i = int(np.argmin(np.isfinite(reward)))
            raise self._fault(
                f"environment {i}: reward: got {np.asarray(rewards)[i]:g}, expected a finite number"
            )
        return reward

    def _final_obs(self, obs: Observations, info: dict[str, Any], done: Flags) -> Observations:
        """Arrays [N, ...] from Gymnasium's object array of one observation per ended environment."""
        final = {key: value.copy() for key, value in obs.items()}
        last = info["final_obs"]
        for leaf in self._leaves:
            for i in np.flatnonzero(done):
                if isinstance(last, dict):  # some native vectors give one dict of arrays instead
                    final[leaf.key][i] = leaf.encode(leaf.take(last)[i], ())
                else:
                    final[leaf.key][i] = leaf.encode(leaf.take(last[i]), ())
        return final


def told_by(info: dict[str, Any], ended: Flags) -> NDArray[np.float64] | None:
    """[N] what the info of a vector says of the success of the episodes that ended; None if nothing."""
    found = info.get("final_info", info)
    for key in ("success", "is_success"):
        if isinstance(found, dict) and key in found:
            told = ended & np.asarray(found.get(f"_{key}", ended), dtype=np.bool_)
            return np.where(told, np.asarray(found[key], np.float64), np.nan)
    return None
