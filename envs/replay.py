"""Exact snapshots of any Gymnasium environment, without pickling it: replay the episode from where it began.

The state of an environment is a graph of arbitrary Python objects. Saving that needs pickle, and loading a
pickle runs whatever it contains. But an episode is a function of three things: the random generator before
`reset`, the arguments of `reset`, and the actions since. The wrapper records these, and `restore` plays them
again. It compares the observation and the generator it arrives at with the recorded ones; an environment that
keeps state elsewhere (a simulator's clock, global random numbers) is found out that way, and starts a fresh
episode instead, and so does one whose episode is longer than MOST_ACTIONS. The record grows by one action per step
until the next reset.
"""

from __future__ import annotations

import hashlib
from typing import Any

import gymnasium
import numpy as np

MOST_ACTIONS = 20_000
"""Actions of one episode that are kept; a longer one starts anew after a restore."""
BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


class Replay(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Records one environment's present episode, as JSON types.

    SyncVectorEnv and AsyncVectorEnv seed their environments once, at the first reset; later resets (by
    autoreset, without a seed) go on with the environment's own generator, whose state is therefore recorded
    before each of them. Under NEXT_STEP the vector remembers that an ended environment must be reset by the
    next call. A restored vector has forgotten it, so this wrapper answers that call itself.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.replay_data: dict[str, Any] | None = None
        """Set by the vector environment before it calls `replay_restore`."""
        self._opening: dict[str, Any] | None = None
        self._actions: list[Any] = []
        self._observation: Any = None
        self._ended = False
        self._reset_due = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        generator = None if seed is not None else to_json(self.unwrapped.np_random.bit_generator.state)
        opening = {"seed": seed, "generator": generator, "options": options}
        observation, info = self.env.reset(seed=seed, options=options)
        self._opening, self._actions, self._observation = opening, [], observation
        self._ended = self._reset_due = False
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._reset_due:
            observation, info = self.reset()
            return observation, 0.0, False, False, info
        observation, reward, terminated, truncated, info = self.env.step(action)
        if len(self._actions) <= MOST_ACTIONS:
            self._actions.append(to_json(action))
        self._observation = observation
        self._ended = bool(terminated or truncated)
        return observation, reward, terminated, truncated, info

    def replay_snapshot(self) -> dict[str, Any]:
        """What is needed to come back to this point. Call it after a reset."""
        if self._opening is None:
            raise RuntimeError("there is no episode to take a snapshot of: call reset first")
        return {
            **self._opening,
            "actions": None if len(self._actions) > MOST_ACTIONS else list(self._actions),
            "observation": fingerprint(self._observation),
            "generator_now": to_json(self.unwrapped.np_random.bit_generator.state),
        }

    def replay_restore(self) -> tuple[Any, bool]:
        """Come back to the point in `replay_data`. Returns the observation there, and true.

        If the episode does not repeat itself: the first observation of a fresh episode, and false.
        """
        assert self.replay_data is not None, "set replay_data first"
        data, self.replay_data = self.replay_data, None
        if data["generator"] is not None:
            self.unwrapped.np_random = generator_from(data["generator"])
        self.reset(seed=data["seed"], options=data["options"])
        for action in data["actions"] or []:
            if self._ended:
                break
            self.step(action)
        arrived = self.replay_snapshot()
        known = data["actions"] is not None
        exact = known and all(
            arrived[key] == data[key] for key in ("actions", "observation", "generator_now")
        )
        if not exact:
            self.reset()
        self._reset_due = self._ended
        return self._observation, exact


def fingerprint(observation: Any) -> str:
    """A hash of an observation's exact bytes: arrays, numbers and dicts of them."""
    digest = hashlib.sha256()
    entries = observation if isinstance(observation, dict) else {"": observation}
    for key in sorted(entries):
        value = np.ascontiguousarray(entries[key])
        digest.update(f"{key}|{value.dtype.str}|{value.shape}|".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def generator_from(state: dict[str, Any]) -> np.random.Generator:
    """A generator of the recorded kind in the recorded state."""
    if state["bit_generator"] not in BIT_GENERATORS:
        raise ValueError(
            f"unknown bit generator {state['bit_generator']!r}; expected {', '.join(BIT_GENERATORS)}"
        )
    generator = np.random.Generator(getattr(np.random, state["bit_generator"])())
    generator.bit_generator.state = state
    return generator


def to_json(value: Any) -> Any:
    """NumPy numbers and arrays inside `value` as plain Python, which JSON keeps exactly."""
    if isinstance(value, dict):
        return {key: to_json(entry) for key, entry in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value
