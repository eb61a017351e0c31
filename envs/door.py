"""The door: everything that one environment returns passes here, is checked, converted and copied.

`Door` is the outermost wrapper of every Python environment, in whatever process it runs, so that training
(sync and async), evaluation and recording see the same. Inward it takes the agent's choices (`envs/actions.py`),
outward it gives a flat dict of arrays (`envs/observations.py`). What an environment does wrong becomes one line,
an `EnvFault` with the number of the environment, the step, the key, what came and what was expected:

    a result of another form (old API), an observation or reward that is not finite or of another space
    an exception, sys.exit or os._exit in reset, step or render
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.actions import ActionCode
from envs.errors import EnvFault, UserError, first_line
from envs.observations import ACTION_MASK, ActionMask, Leaf, describe, has_bounds_of_its_type, out_of_bounds

LARGEST_REWARD = float(np.finfo(np.float32).max)
"""Rewards are kept in single precision."""
NORMALIZERS = {
    "NormalizeObservation": "--normalize-observations on",
    "NormalizeReward": "--normalize-rewards",
}
"""Wrappers of Gymnasium and of others that normalize, and what takes their place."""
SUCCESS = ("is_success", "success")
"""Keys of `info` under which environments tell success, as other toolkits read them."""


class Door(gymnasium.Wrapper[dict[str, Any], Any, Any, Any]):
    """One environment with flat, checked observations and the agent's own actions."""

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        env_id: str,
        leaves: list[Leaf],
        actions: ActionCode,
        number: int | None = None,
        masked: bool = False,
        bare: bool = False,
    ) -> None:
        """`number` is that of the environment in its vector; `masked`: the legal actions are an observation;
        `bare`: of `info` only success leaves, since vectors stack what may differ between environments."""
        super().__init__(env)
        refuse_normalizers(env, env_id)
        self.env_id, self.leaves, self.actions, self.number = env_id, leaves, actions, number
        self.steps, self.bare = 0, bare
        self.seen: Any = None
        """The environment's last observation, in its own form; `observation` is the same as the agent gets it."""
        self.observation: dict[str, Any] = {}
        entries = {leaf.key: leaf.space for leaf in leaves}
        self._mask_sizes = mask_sizes(actions.space) if masked else []
        if masked:
            entries[ACTION_MASK] = ActionMask(sum(self._mask_sizes))
        self.observation_space = spaces.Dict(entries)
        self.action_space = actions.wire
        self._warned = {leaf.key for leaf in leaves if has_bounds_of_its_type(leaf.space)}
        """Keys whose bounds need no further look: told once, or out of reach."""
        _open.add(self)

    @property
    def agent_action_space(self) -> gymnasium.Space[Any]:
        """What the agent chooses from."""
        return self.actions.space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        result = self._guarded("reset", lambda: self.env.reset(seed=seed, options=options))
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise self.fault(f"reset returned {describe(result)}, expected (observation, info)")
        observation, info = result
        return self.observe(observation, info), {} if self.bare else info

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        choice = self.actions.decode(action)
        result = self._guarded("step", lambda: self.env.step(choice))
        self.steps += 1
        if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict)):
            length = f" of {len(result)}" if isinstance(result, tuple) else ""
            raise self.fault(
                f"step returned a {type(result).__name__}{length}, expected (observation, reward, terminated, "
                "truncated, info): the API before Gymnasium 0.26 is not supported"
            )
        observation, reward, terminated, truncated, info = result
        flat = self.observe(observation, info)
        if self.bare:
            success = told_success(info) if terminated or truncated else None
            info = {} if success is None else {"success": success}
        return flat, self._reward(reward), bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """A uint8 picture [H, W, 3] where the environment draws one: floats scaled, transparency dropped."""
        frame = self._guarded("render", self.env.render)
        if not isinstance(frame, np.ndarray):
            return frame
        if frame.ndim not in (2, 3) or frame.size == 0:
            raise self.fault(f"render returned shape {list(frame.shape)}, expected a picture [H, W, 3]")
        if frame.dtype.kind == "f":
            if not np.isfinite(frame).all():
                raise self.fault("render returned numbers that are not finite")
            frame = (frame * (255.0 if frame.max() <= 1.0 else 1.0)).clip(0.0, 255.0)
        frame = frame.astype(np.uint8) if frame.dtype != np.bool_ else frame.astype(np.uint8) * 255
        if frame.ndim == 2 or frame.shape[-1] == 1:
            frame = np.repeat(frame.reshape(*frame.shape[:2], 1), 3, axis=-1)
        return np.ascontiguousarray(frame[..., :3])

    def close(self) -> None:
        _open.discard(self)
        with pygame_kept(bool(_open)):
            super().close()

    def observation_words(self) -> str:
        """A few words on what is seen now, where the environment has some."""
        own = getattr(self.env.unwrapped, "observation_words", None)
        if own is None:
            return ""
        said = self._guarded("observation_words", own)
        if not isinstance(said, str):
            raise self.fault(f"observation_words returned {describe(said)}, expected a str")
        return said

    def fault(self, what: str, trace: str = "") -> EnvFault:
        """The error line of something that this environment did."""
        where = f"{self.env_id}: environment {self.number}" if self.number is not None else f"{self.env_id}:"
        return EnvFault(f"{where}{',' if self.number is not None else ''} step {self.steps}: {what}", trace)

    def observe(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        """An observation of the environment as the agent gets it: flat, checked, copied."""
        flat: dict[str, Any] = {}
        self.seen, self.observation = observation, flat
        for leaf in self.leaves:
            try:
                value = leaf.take(observation)
            except (KeyError, IndexError, TypeError):
                raise self.fault(
                    f"observation {leaf.key!r} is missing, got {describe(observation)}"
                ) from None
            try:
                flat[leaf.key] = leaf.encode(value, ())
            except ValueError as error:
                raise self.fault(f"observation {leaf.key!r}: {error}") from None
            if leaf.key not in self._warned and out_of_bounds(flat[leaf.key], leaf.space):
                self._warned.add(leaf.key)
                warnings.warn(
                    str(
                        self.fault(f"observation {leaf.key!r} leaves the bounds of its space; taken as it is")
                    ),
                    stacklevel=2,
                )
        if self._mask_sizes:
            flat[ACTION_MASK] = self._mask(info)
        return flat

    def _mask(self, info: dict[str, Any]) -> NDArray[np.int8]:
        given = info.get(ACTION_MASK)
        if given is None and (method := action_masks_of(self.env)) is not None:
            given = self._guarded("action_masks", method)
        mask = np.asarray(given).reshape(-1)
        if self.actions.table is not None and len(mask) == int(self.actions.original.n):  # type: ignore[attr-defined]
            mask = mask[self.actions.table - int(self.actions.original.start)]  # type: ignore[attr-defined]
        if mask.dtype.kind not in "biuf" or len(mask) != sum(self._mask_sizes):
            raise self.fault(
                f"action mask: got {describe(given)}, expected {sum(self._mask_sizes)} entries of 0 or 1"
            )
        mask = mask.astype(np.bool_)
        for component in np.split(mask, np.cumsum(self._mask_sizes)[:-1]):
            if not component.any():
                raise self.fault(f"action mask: no action is legal, got {describe(given)}")
        return mask.astype(np.int8)

    def _reward(self, reward: Any) -> float:
        try:
            given = np.asarray(reward)
        except ValueError:
            given = np.asarray("?")
        if given.dtype.kind not in "biuf" or given.size != 1:
            raise self.fault(f"reward: got {describe(reward)}, expected one number")
        value = float(given.reshape(()))
        if not abs(value) <= LARGEST_REWARD:  # also false for nan
            raise self.fault(f"reward: got {value:g}, expected a finite number")
        return value

    def _guarded(self, call: str, run: Callable[[], Any]) -> Any:
        """Run one call of the environment; whatever ends it becomes a fault."""
        outer = getattr(_watched, "door", None)
        _watched.door, _watched.since = self, time.monotonic()
        try:
            return run()
        except EnvFault:
            raise
        except (Exception, SystemExit) as error:
            kind = type(error).__name__
            raise self.fault(f"{call} raised {kind}: {first_line(error)}", traceback.format_exc()) from error
        finally:
            _watched.door = outer


_open: weakref.WeakSet[Door] = weakref.WeakSet()
"""The environments of this process that were not closed."""


@contextlib.contextmanager
def pygame_kept(others: bool) -> Iterator[None]:
    """For an environment that closes while `others` of this process are open: it does not end pygame for them.

    Those of memory-gym and some of Gymnasium call pygame.quit, and with it goes the one display that all draw on.
    """
    pygame: Any = sys.modules.get("pygame") if others else None
    quits = [] if pygame is None else [(part, part.quit) for part in (pygame, pygame.display)]
    for part, _ in quits:
        part.quit = lambda: None
    try:
        yield
    finally:
        for part, quit_it in quits:
            part.quit = quit_it


class _Watched:
    """The environment that is being called in this process, and since when."""

    door: Door | None = None
    since: float = 0.0


_watched = _Watched()
_exit, _process = os._exit, os.getpid()


def _guarded_exit(code: int) -> None:
    """os._exit, except inside a call of an environment in the process that began it, where it is a fault."""
    if _watched.door is not None and os.getpid() == _process:
        raise SystemExit(code)
    _exit(code)


def guard_exit() -> None:
    """From now on an environment that calls os._exit in this process is refused like any other fault."""
    global _process
    _process = os.getpid()
    os._exit = _guarded_exit  # type: ignore[assignment]


def refuse_normalizers(env: Any, env_id: str) -> None:
    """Refuse wrappers, also of a vector, whose statistics evaluation and checkpoints would not share."""
    for name, option in NORMALIZERS.items():
        inner = env
        while inner is not None:
            if type(inner).__name__ == name:
                raise UserError(
                    f"{env_id}: its wrapper {name} keeps statistics that evaluation would not share; leave it out and "
                    f"use {option}"
                )
            inner = inner.__dict__.get("env")


def end_with_parent() -> None:
    """From now on this worker process is ended by the system when the process that began it is gone (Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


PR_SET_PDEATHSIG = 1


def told_success(info: dict[str, Any]) -> float | None:
    """1.0 or 0.0 where the environment's info tells success; None where it does not."""
    for key in SUCCESS:
        if info.get(key) is not None:
            return float(bool(np.asarray(info[key]).any()))
    return None


def mask_sizes(space: gymnasium.Space[Any]) -> list[int]:
    """Choices of every component of an action space in a row; empty where a mask makes no sense."""
    sizes: list[int] = []
    for part in space.spaces if isinstance(space, spaces.Tuple) else [space]:
        if isinstance(part, spaces.Discrete):
            sizes.append(int(part.n))
        elif isinstance(part, spaces.MultiDiscrete):
            sizes.extend(int(n) for n in part.nvec.reshape(-1))
        elif isinstance(part, spaces.MultiBinary):
            sizes.extend([2] * math.prod(part.shape))
        else:
            return []
    return sizes


def action_masks_of(env: gymnasium.Env[Any, Any]) -> Callable[[], Any] | None:
    """The environment's method `action_masks`, of a wrapper or its own; None if it has none."""
    try:
        method = env.get_wrapper_attr("action_masks")
    except AttributeError:
        return None
    return method if callable(method) else None


PATIENCE = 60.0
"""Seconds after which a call that has not returned is worth a line."""


def watch(patience: float = PATIENCE) -> None:
    """Say once, from a thread of its own, that an environment of this process does not answer."""

    def look() -> None:
        told = None
        while True:
            time.sleep(patience / 12)
            door, since = _watched.door, _watched.since
            if door is not None and since != told and time.monotonic() - since > patience:
                told = since
                print(door.fault(f"has not answered for {patience:.0f} s"), file=sys.stderr, flush=True)

    if not any(thread.name == "mnm-watch" for thread in threading.enumerate()):
        threading.Thread(target=look, name="mnm-watch", daemon=True).start()
