"""`make_vec` and `make_single`: the only two doors through which the toolkit gets environments.

Backends of `make_vec`:
    native    the environment's own vectorised form (`vector_entry_point`); the maze has one
    envpool   EnvPool's C++ form of the same id
    sync      N Python environments in this process
    async     N Python environments in N processes
    auto      native if there is one, else envpool if it is installed and can serve the id and its arguments,
              else sync; an id that somebody else registered (`module:EnvId`) is never replaced by EnvPool's

Environment arguments (`env_kwargs`) go to the environment's constructor, except "actions": a list of the
actions that the agent may use, e.g. [0, 1, 2] for the MiniGrid memory tasks. It works for every environment
and backend.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from envs.encoding import ChosenActions, DictObservation, action_table
from envs.envpool_backend import make_envpool, refusal
from envs.errors import UserError, nearest
from envs.memory_cue import MemoryCue, has_cue
from envs.minigrid_arrays import MiniGridArrays, has_mission, is_minigrid_id
from envs.registry import (
    accepted_kwargs,
    check_kwargs,
    check_render_mode,
    could_not_make,
    find_spec,
    has_faithful_copies,
    import_module_of,
    require_spec,
    split_id,
)
from envs.replay import Replay
from envs.seeds import train_seeds
from envs.vector import GymnasiumVecEnv, VecEnv

Kwargs = dict[str, Any]

BACKENDS = ("auto", "native", "envpool", "sync", "async")
AUTORESET = {"same_step": AutoresetMode.SAME_STEP, "next_step": AutoresetMode.NEXT_STEP}
SUCCESS_RULES = ("positive_return",)


def make_vec(
    env_id: str,
    num_envs: int,
    seed: int,
    backend: str = "auto",
    env_kwargs: Kwargs | None = None,
    autoreset: str = "same_step",
    first: int = 0,
) -> VecEnv:
    """N environments in one convention. `autoreset` (same_step, next_step) matters to sync and async only.

    `first` is the number of the first of them, where they are a part of a run's environments.
    """
    _check_choice("backend", backend, BACKENDS)
    _check_choice("autoreset", autoreset, tuple(AUTORESET))
    name = import_module_of(env_id)
    kwargs, actions = split_kwargs(env_id, env_kwargs)
    seeds = train_seeds(seed, num_envs, first)
    if backend == "auto":
        backend = _choose_backend(env_id, kwargs)
    if backend == "envpool":
        return make_envpool(name, seeds, kwargs, actions)
    if backend == "native":
        return _make_native(env_id, num_envs, seeds[0], kwargs, actions)
    return _make_python(env_id, num_envs, seeds[0], backend, env_kwargs, AUTORESET[autoreset])


def make_single(
    env_id: str, env_kwargs: Kwargs | None = None, render_mode: str | None = None
) -> gymnasium.Env[Any, Any]:
    """One Python environment with the observations and actions that `make_vec` gives."""
    kwargs, actions = split_kwargs(env_id, env_kwargs)
    spec = require_spec(env_id)
    if spec.entry_point is None:
        raise UserError(f"{env_id} has no single form (entry_point), only a vectorised one")
    check_kwargs(env_id, spec.entry_point, kwargs, also=("actions", "max_episode_steps"))
    if render_mode is not None:
        check_render_mode(env_id, spec.entry_point, render_mode)
    rendering: Kwargs = {} if render_mode is None else {"render_mode": render_mode}
    try:
        env: gymnasium.Env[Any, Any] = gymnasium.make(spec, **(kwargs | rendering))
    except UserError:
        raise
    except Exception as error:
        if not kwargs and not rendering:
            raise
        raise could_not_make(env_id, kwargs | rendering, error) from error
    table = action_table(env.action_space, actions, env_id)
    if has_cue(env):
        env = MemoryCue(env)
    if has_mission(env.observation_space):
        env = MiniGridArrays(env)
    return ChosenActions(DictObservation(env, env_id), table)


def success_rule(env_id: str, metadata: dict[str, Any]) -> str | None:
    """How success is told: what the environment declares in `metadata["success"]`, else by its id."""
    declared = metadata.get("success")
    if declared is not None and declared not in SUCCESS_RULES:
        raise UserError(
            f"{env_id}: metadata['success'] is {declared!r}; expected {' or '.join(SUCCESS_RULES)}"
        )
    if declared is None and is_minigrid_id(split_id(env_id)[1]):
        return "positive_return"
    return declared


def split_kwargs(env_id: str, env_kwargs: Kwargs | None) -> tuple[Kwargs, list[int] | None]:
    """The arguments of the environment's constructor, and our own argument "actions"."""
    if env_kwargs is not None and not isinstance(env_kwargs, dict):
        raise UserError(f"env kwargs of {env_id} must map names to values, not {env_kwargs!r}")
    kwargs = dict(env_kwargs or {})
    return kwargs, kwargs.pop("actions", None)


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        close = nearest(value, choices, limit=1)
        hint = f" (did you mean {close}?)" if close else ""
        raise UserError(f"unknown {what} {value!r}; expected one of {', '.join(choices)}{hint}")


def _choose_backend(env_id: str, kwargs: Kwargs) -> str:
    spec = find_spec(env_id)
    if spec is not None and spec.vector_entry_point is not None:
        names = accepted_kwargs(spec.vector_entry_point)
        if names is None or set(kwargs) <= set(names):
            return "native"
    name = split_id(env_id)[1]
    if (spec is not None and not has_faithful_copies(spec)) or refusal(name, kwargs) is not None:
        return "sync"
    if spec is None or is_minigrid_id(name) or _envpool_observes_alike(env_id, name, kwargs):
        return "envpool"
    return "sync"


def _envpool_observes_alike(env_id: str, name: str, kwargs: Kwargs) -> bool:
    """Whether EnvPool's observations have the form of the Python environment's, on which agents are evaluated."""
    pool, single = make_envpool(name, [0], kwargs, None), make_single(env_id, kwargs)
    forms = [
        {key: (type(entry), entry.shape, entry.dtype) for key, entry in space.items()}
        for space in (pool.observation_space, single.observation_space)
        if isinstance(space, spaces.Dict)
    ]
    pool.close()
    single.close()
    return forms[0] == forms[1]


def _make_native(
    env_id: str, num_envs: int, first_seed: int, kwargs: Kwargs, actions: list[int] | None
) -> VecEnv:
    spec = require_spec(env_id)
    if spec.vector_entry_point is None:
        raise UserError(
            f"{env_id} has no native vectorised form (vector_entry_point): use backend sync or auto"
        )
    check_kwargs(env_id, spec.vector_entry_point, kwargs, also=("actions",))
    try:
        vector = gymnasium.make_vec(spec, num_envs, vectorization_mode="vector_entry_point", **kwargs)
    except UserError:
        raise
    except Exception as error:
        if not kwargs:
            raise
        raise could_not_make(env_id, kwargs, error) from error
    rule = success_rule(env_id, vector.metadata)
    return GymnasiumVecEnv(vector, first_seed, "native", env_id, actions, rule)


def _make_python(
    env_id: str, num_envs: int, first_seed: int, backend: str, env_kwargs: Kwargs | None, mode: AutoresetMode
) -> VecEnv:
    probe = make_single(env_id, env_kwargs)
    rule = success_rule(env_id, probe.metadata)
    probe.close()
    kind = SyncVectorEnv if backend == "sync" else AsyncVectorEnv
    vector = kind([partial(_make_recorded, env_id, env_kwargs)] * num_envs, autoreset_mode=mode)
    return GymnasiumVecEnv(vector, first_seed, backend, env_id, None, rule)


def _make_recorded(env_id: str, env_kwargs: Kwargs | None) -> gymnasium.Env[Any, Any]:
    """One environment of a sync or async vector; a module-level function, so that other processes find it."""
    return Replay(make_single(env_id, env_kwargs))
