"""`make_vec` and `make_single`: the only two doors through which the toolkit gets environments.

Backends of `make_vec`:
    native    the environment's own vectorised form (`vector_entry_point`); the maze has one
    envpool   EnvPool's C++ form of the same id
    sync      N Python environments in this process
    async     N Python environments in N processes
    auto      native if there is one, else envpool if it is installed and can serve the id and its arguments,
              else sync; an id that somebody else registered (`module:EnvId`) is never replaced by EnvPool's

Environment arguments (`env_kwargs`) go to the environment's constructor, except two that we read ourselves:
"actions", a list of the actions that the agent may use, e.g. [0, 1, 2] for the MiniGrid memory tasks, for every
environment with Discrete actions and every backend; and "sequence_length", to which Sequence observations are
padded. Every Python environment stands behind its `Door`, wherever it runs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from envs.actions import ActionCode
from envs.door import Door, action_masks_of, guard_exit, mask_sizes, watch
from envs.envpool_backend import make_envpool, refusal
from envs.errors import UserError, nearest
from envs.memory_cue import MemoryCue, has_cue
from envs.minigrid_arrays import MiniGridArrays, has_mission, is_minigrid_id
from envs.observations import ACTION_MASK, SEQUENCE_LENGTH, leaves_of
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
ENV_TIMEOUT = 300.0
"""Seconds that the worker processes of an async vector may take for one step."""
OUR_KWARGS = ("actions", "sequence_length")


def make_vec(
    env_id: str,
    num_envs: int,
    seed: int,
    backend: str = "auto",
    env_kwargs: Kwargs | None = None,
    autoreset: str = "same_step",
    first: int = 0,
    timeout: float = ENV_TIMEOUT,
) -> VecEnv:
    """N environments in one convention. `autoreset` (same_step, next_step) matters to sync and async only.

    `first` is the number of the first of them, where they are a part of a run's environments; `timeout` the
    seconds that async waits for a step.
    """
    _check_choice("backend", backend, BACKENDS)
    _check_choice("autoreset", autoreset, tuple(AUTORESET))
    name = import_module_of(env_id)
    kwargs, ours = split_kwargs(env_id, env_kwargs)
    seeds = train_seeds(seed, num_envs, first)
    if backend == "auto":
        backend = _choose_backend(env_id, kwargs)
    if backend == "envpool":
        return make_envpool(name, seeds, kwargs, ours.get("actions"))
    if backend == "native":
        return _make_native(env_id, num_envs, seeds[0], kwargs, ours.get("actions"))
    makers = [partial(_make_recorded, env_id, env_kwargs, first + n, backend) for n in range(num_envs)]
    return _make_python(env_id, makers, seeds[0], backend, env_kwargs, AUTORESET[autoreset], timeout)


def make_single(
    env_id: str,
    env_kwargs: Kwargs | None = None,
    render_mode: str | None = None,
    number: int | None = None,
    bare: bool = False,
) -> Door:
    """One Python environment with the observations and actions that `make_vec` gives (number, bare: see `Door`)."""
    ours = split_kwargs(env_id, env_kwargs)[1]
    env = _make_plain(env_id, env_kwargs, render_mode)
    actions = ActionCode(env.action_space, ours.get("actions"), env_id)
    masked = bool(mask_sizes(actions.space)) and _has_mask(env, env_id, env_kwargs)
    if has_cue(env):
        env = MemoryCue(env)
    if has_mission(env.observation_space):
        env = MiniGridArrays(env)
    length = ours.get("sequence_length", SEQUENCE_LENGTH)
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise UserError(f"{env_id}: sequence_length must be a whole number of at least 1, got {length!r}")
    leaves = leaves_of(env.observation_space, env_id, length, (ACTION_MASK,) if masked else ())
    return Door(env, env_id, leaves, actions, number, masked, bare)


def _make_plain(
    env_id: str, env_kwargs: Kwargs | None, render_mode: str | None = None
) -> gymnasium.Env[Any, Any]:
    """The environment as Gymnasium makes it, or one line why not."""
    kwargs = split_kwargs(env_id, env_kwargs)[0]
    spec = require_spec(env_id)
    if spec.entry_point is None:
        raise UserError(f"{env_id} has no single form (entry_point), only a vectorised one")
    check_kwargs(env_id, spec.entry_point, kwargs, also=(*OUR_KWARGS, "max_episode_steps"))
    if render_mode is not None:
        check_render_mode(env_id, spec.entry_point, render_mode)
    rendering: Kwargs = {} if render_mode is None else {"render_mode": render_mode}
    try:
        # The door checks what Gymnasium's checker would, at every step and in one line.
        return gymnasium.make(spec, disable_env_checker=True, **(kwargs | rendering))
    except UserError:
        raise
    except Exception as error:
        raise could_not_make(env_id, kwargs | rendering, error) from error


def _has_mask(env: gymnasium.Env[Any, Any], env_id: str, env_kwargs: Kwargs | None) -> bool:
    """Whether an environment tells its legal actions, by a method or in the info of its first observation."""
    if action_masks_of(env) is not None:
        return True
    if split_id(env_id)[1].startswith(("mnm/", "MiniGrid-", "BabyAI-")):
        return False
    return _mask_in_info(
        env_id, repr(sorted((env_kwargs or {}).items())), lambda: _make_plain(env_id, env_kwargs)
    )


_mask_found: dict[tuple[str, str], bool] = {}


def _mask_in_info(env_id: str, arguments: str, make: Callable[[], gymnasium.Env[Any, Any]]) -> bool:
    """Asks a second environment, so that the first is not reset before its user does; remembers the answer."""
    if (env_id, arguments) not in _mask_found:
        probe = make()
        try:
            result = probe.reset(seed=0)
            found = isinstance(result, tuple) and len(result) == 2 and ACTION_MASK in result[1]
        except (Exception, SystemExit):
            found = False  # it will be told, in one line, when the environment is used
        finally:
            probe.close()
        _mask_found[env_id, arguments] = found
    return _mask_found[env_id, arguments]


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


def split_kwargs(env_id: str, env_kwargs: Kwargs | None) -> tuple[Kwargs, Kwargs]:
    """The arguments of the environment's constructor, and our own (`OUR_KWARGS`)."""
    if env_kwargs is not None and not isinstance(env_kwargs, dict):
        raise UserError(f"env kwargs of {env_id} must map names to values, not {env_kwargs!r}")
    kwargs = dict(env_kwargs or {})
    return kwargs, {name: kwargs.pop(name) for name in OUR_KWARGS if name in kwargs}


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
    check_kwargs(env_id, spec.vector_entry_point, kwargs, also=OUR_KWARGS)
    try:
        vector = gymnasium.make_vec(spec, num_envs, vectorization_mode="vector_entry_point", **kwargs)
    except UserError:
        raise
    except Exception as error:
        raise could_not_make(env_id, kwargs, error) from error
    rule = success_rule(env_id, vector.metadata)
    code = ActionCode(vector.single_action_space, actions, env_id)
    return GymnasiumVecEnv(vector, first_seed, "native", env_id, code, rule)


def _make_python(
    env_id: str,
    makers: Sequence[Callable[[], Replay]],
    first_seed: int,
    backend: str,
    env_kwargs: Kwargs | None,
    mode: AutoresetMode,
    timeout: float,
) -> VecEnv:
    probe = make_single(env_id, env_kwargs)
    rule, actions = success_rule(env_id, probe.metadata), probe.actions
    probe.close()
    if backend == "sync":
        guard_exit()
        watch()
        vector: Any = SyncVectorEnv(makers, autoreset_mode=mode)
    else:
        vector = AsyncVectorEnv(makers, autoreset_mode=mode)
    return GymnasiumVecEnv(vector, first_seed, backend, env_id, actions, rule, timeout)


def _make_recorded(env_id: str, env_kwargs: Kwargs | None, number: int, backend: str) -> Replay:
    """One environment of a sync or async vector; a module-level function, so that other processes find it."""
    if backend == "async":
        # Ctrl-C reaches every process of a terminal; the one that trains stops its workers in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        guard_exit()
    return Replay(make_single(env_id, env_kwargs, number=number, bare=True))
