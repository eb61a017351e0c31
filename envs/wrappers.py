"""Wrappers that are named in text: `module:Class`, or `module:Class {"argument": value}`, innermost first.

They stand between the environment that Gymnasium makes and everything of ours, in training and in evaluation.
Frame skip is one of Gymnasium's own, named the same way, and so is the frame stack, but for categories.
`envs.wrappers:KeepEntries` hides numbers of an observation.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.errors import UserError, first_line, nearest
from envs.minigrid_arrays import MiniGridArrays, has_mission
from envs.observations import Tokens
from envs.user_modules import import_user_module
from envs.wrapper_names import NamedWrapper, parse_wrapper

OURS = (__name__, "envs.wrappers")
"""This module, as it is imported and as it is named in text."""


class StackFrames(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Gymnasium's frame stack, in which categories stay categories and a text is the present one."""

    def __init__(self, env: gymnasium.Env[Any, Any], stack_size: int) -> None:
        if has_mission(env.observation_space):
            env = MiniGridArrays(env)
        single = env.observation_space
        super().__init__(gymnasium.wrappers.FrameStackObservation(env, stack_size))
        self._latest: list[str] = []
        if isinstance(single, spaces.Dict):
            self._latest = [key for key, part in single.items() if isinstance(part, (Tokens, spaces.Text))]
            stacked: Any = self.env.observation_space
            entries = {key: _stacked(part, stacked[key], stack_size) for key, part in single.items()}
            self.observation_space = spaces.Dict(entries)
        else:
            self.observation_space = _stacked(single, self.env.observation_space, stack_size)

    def observation(self, observation: Any) -> Any:
        return (
            observation | {key: observation[key][-1] for key in self._latest} if self._latest else observation
        )


class KeepEntries(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Shows the entries `keep` of a Box of one axis and hides the others, such as velocities."""

    def __init__(self, env: gymnasium.Env[Any, Any], keep: Sequence[int]) -> None:
        super().__init__(env)
        space: Any = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise UserError(f"KeepEntries needs a Box of one axis, got {space}")
        count = space.shape[0]
        whole = isinstance(keep, Sequence) and keep and all(type(place) is int for place in keep)
        if not whole or not all(0 <= place < count for place in keep):
            raise UserError(f"KeepEntries: keep must list entries from 0 to {count - 1}, got {keep!r}")
        self.keep = list(keep)
        self.observation_space = spaces.Box(space.low[self.keep], space.high[self.keep], dtype=space.dtype)

    def observation(self, observation: Any) -> Any:
        return np.asarray(observation)[self.keep]


def _stacked(single: Any, stacked: Any, count: int) -> Any:
    """The space of a stack of one entry."""
    if isinstance(single, (Tokens, spaces.Text)):
        return single
    if isinstance(single, spaces.MultiDiscrete):
        counts, starts = (np.stack([x] * count) for x in (single.nvec, single.start))
        return spaces.MultiDiscrete(counts, dtype=single.dtype, start=starts)
    return stacked


def wrapped(env: gymnasium.Env[Any, Any], texts: Any, env_id: str) -> gymnasium.Env[Any, Any]:
    """The environment inside the wrappers `texts`, the first innermost; raises UserError."""
    if not isinstance(texts, Sequence) or isinstance(texts, str):
        raise UserError(f"{env_id}: wrappers must be a list of module:Class, got {texts!r}")
    for text in texts:
        named = parse_wrapper(text)
        make = _find(named)
        _check_arguments(named, make)
        try:
            outer = make(env, **named.kwargs)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{env_id}: wrapper {named} with arguments {json.dumps(named.kwargs)} failed: "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
        if not isinstance(outer, gymnasium.Env):
            raise UserError(
                f"{env_id}: wrapper {named} gave a {type(outer).__name__}, expected a gymnasium.Env"
            )
        env = outer
    return env


def _find(named: NamedWrapper) -> Any:
    module = sys.modules[__name__] if named.module in OURS else import_user_module(named.module, str(named))
    try:
        found = getattr(module, named.name)
    except AttributeError:
        close = nearest(named.name, [name for name in dir(module) if not name.startswith("_")])
        hint = f" (did you mean {close}?)" if close else ""
        raise UserError(f"module {named.module!r} has no wrapper {named.name!r}{hint}") from None
    except ImportError as error:  # some of Gymnasium's load what they need only when asked for
        raise UserError(f"wrapper {named} cannot be loaded: {first_line(error)}") from error
    if not callable(found):
        raise UserError(f"wrapper {named} is a {type(found).__name__}, expected a class or function")
    return found


def _check_arguments(named: NamedWrapper, make: Any) -> None:
    """Refuse arguments that it does not take, naming those that it does."""
    try:
        parameters = list(inspect.signature(make).parameters.values())[1:]
    except (TypeError, ValueError):  # what cannot be inspected is tried as it is
        return
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = [parameter.name for parameter in parameters]
    for key in named.kwargs:
        if key not in names:
            close = nearest(key, names, limit=1)
            hint = f" (did you mean {close}?)" if close else ""
            raise UserError(
                f"wrapper {named} has no argument {key!r}; it takes {', '.join(names) or 'none'}{hint}"
            )
    missing = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    for name in missing:
        if name not in named.kwargs:
            raise UserError(
                f"wrapper {named} needs the argument {name!r}: write '{named} {{\"{name}\": ...}}'"
            )
