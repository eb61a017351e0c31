"""`make_vec` and `make_single`: the only two doors through which the toolkit gets environments.

Backends of `make_vec`:
    native    the environment's own vectorised form (`vector_entry_point`); the maze has one
    envpool   EnvPool's C++ form of the same id
    sync      N Python environments in this process
    async     N Python environments in N processes
    auto      native if there is one, else envpool if it is installed and can serve the id and its arguments,
              else sync; an id that somebody else registered (`module:EnvId`) is never replaced by EnvPool's

Agents are evaluated on the Python form, so a faster one is taken only if that exists, can be made and reset, and has
the same observations and actions. Where there is no Python form, evaluation makes a vector of one (`envs/alone.py`).

Environment arguments (`env_kwargs`) go to the environment's constructor, except three that we read ourselves:
"actions", a list of the actions that the agent may use, e.g. [0, 1, 2] for the MiniGrid memory tasks, for every
environment with Discrete actions and every backend; "sequence_length", to which Sequence observations are
padded; and "wrappers" (`envs/wrappers.py`), for sync and async. Every Python environment stands behind its `Door`,
wherever it runs.
"""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from envs.actions import ActionCode
from envs.alone import Alone
from envs.door import Door, action_masks_of, end_with_parent, guard_exit, mask_sizes, pygame_kept, watch
from envs.envpool_backend import known_ids, make_envpool, refusal
from envs.errors import UserError, nearest
from envs.memory_cue import MemoryCue, has_cue
from envs.minigrid_arrays import MiniGridArrays, has_mission, is_minigrid_id
from envs.observations import ACTION_MASK, SEQUENCE_LENGTH, leaves_of, space_form
from envs.registry import (
    EnvLike,
    accepted_kwargs,
    check_kwargs,
    check_render_mode,
    could_not_make,
    find_spec,
    has_faithful_copies,
    id_of,
    import_module_of,
    require_spec,
    split_id,
    takes_render_mode,
)
from envs.replay import Replay
from envs.seeds import train_seeds
from envs.vector import GymnasiumVecEnv, VecEnv
from envs.wrapper_names import WRAPPERS
from envs.wrappers import wrapped

Kwargs = dict[str, Any]

BACKENDS = ("auto", "native", "envpool", "sync", "async")
AUTORESET = {"same_step": AutoresetMode.SAME_STEP, "next_step": AutoresetMode.NEXT_STEP}
SUCCESS_RULES = ("positive_return",)
ENV_TIMEOUT = 300.0
"""Seconds that the worker processes of an async vector may take for one step."""
OUR_KWARGS = ("actions", "sequence_length", WRAPPERS)


def make_vec(
    env: EnvLike,
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
    seconds that async waits for a step. `env` is an id, or what a Python program gives instead (`EnvLike`).
    """
    env_id = id_of(env)
    _check_choice("backend", backend, BACKENDS)
    _check_choice("autoreset", autoreset, tuple(AUTORESET))
    name = import_module_of(env_id)
    kwargs, ours = split_kwargs(env_id, env_kwargs)
    seeds = train_seeds(seed, num_envs, first)
    fast: dict[str, Callable[[], VecEnv]] = {
        "native": lambda: _make_native(env_id, num_envs, seeds[0], kwargs, ours.get("actions")),
        "envpool": lambda: make_envpool(name, seeds, kwargs, ours.get("actions")),
    }
    if backend in fast:
        if ours.get(WRAPPERS):
            raise UserError(f"{env_id}: wrappers need the sync or async backend, not {backend}")
        vec = fast[backend]()
        if (difference := _difference(vec, env_id, env_kwargs)) is not None:
            vec.close()
            raise UserError(f"{env_id} cannot be evaluated as it is trained: {difference}; use backend sync")
        return vec
    for form in _fast_forms(env_id, kwargs, ours) if backend == "auto" else ():
        try:
            vec = fast[form]()
        except UserError:
            continue  # the Python form may do; if not, it says why
        if _difference(vec, env_id, env_kwargs) is None:
            return vec
        vec.close()
    backend = "sync" if backend == "auto" else backend
    require_spec(env_id)
    makers = [partial(_make_recorded, env, env_kwargs, first + n, backend) for n in range(num_envs)]
    return _make_python(env_id, makers, seeds[0], backend, env_kwargs, AUTORESET[autoreset], timeout)


def make_single(
    env: EnvLike,
    env_kwargs: Kwargs | None = None,
    render_mode: str | None = None,
    number: int | None = None,
    bare: bool = False,
) -> Door:
    """One Python environment with the observations and actions that `make_vec` gives (number, bare: see `Door`)."""
    env_id = id_of(env)
    ours = split_kwargs(env_id, env_kwargs)[1]
    inner = make_plain(env_id, env_kwargs, render_mode)
    actions = ActionCode(inner.action_space, ours.get("actions"), env_id)
    masked = bool(mask_sizes(actions.space)) and _has_mask(inner, env_id, env_kwargs)
    if has_cue(inner):
        inner = MemoryCue(inner)
    if has_mission(inner.observation_space):
        inner = MiniGridArrays(inner)
    length = ours.get("sequence_length", SEQUENCE_LENGTH)
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise UserError(f"{env_id}: sequence_length must be a whole number of at least 1, got {length!r}")
    leaves = leaves_of(inner.observation_space, env_id, length, (ACTION_MASK,) if masked else ())
    guard_exit()
    return Door(inner, env_id, leaves, actions, number, masked, bare)


def make_shown(env: EnvLike, env_kwargs: Kwargs | None = None) -> Door:
    """`make_single` with pictures where the environment can draw any; where it cannot, without."""
    env_id = id_of(env)
    if _can_draw(env_id):
        try:
            door = make_single(env_id, env_kwargs, "rgb_array")
            door.reset(seed=0)
            if isinstance(door.render(), np.ndarray):
                return door
            why = "it draws nothing"
            door.close()
        except UserError as error:
            why = str(error)
        warnings.warn(f"no picture of {env_id}, its observations are drawn instead: {why}", stacklevel=2)
    return make_single(env_id, env_kwargs)


def _can_draw(env_id: str) -> bool:
    """Whether an environment's class offers pictures; a factory function may."""
    spec = find_spec(env_id)
    if spec is None or spec.entry_point is None:
        return False
    creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    metadata = getattr(creator, "metadata", None)
    if isinstance(metadata, dict):
        return "rgb_array" in (metadata.get("render_modes") or [])
    return takes_render_mode(creator)


def make_plain(
    env_id: str, env_kwargs: Kwargs | None, render_mode: str | None = None
) -> gymnasium.Env[Any, Any]:
    """The environment as Gymnasium makes it, in its wrappers, or one line why not."""
    kwargs, ours = split_kwargs(env_id, env_kwargs)
    if (make := _vector_only(env_id, kwargs)) is not None:
        if render_mode is not None:
            raise UserError(f"{env_id} cannot render {render_mode!r}: it has no Python form")
        return wrapped(Alone(make), ours.get(WRAPPERS, ()), env_id)
    spec = require_spec(env_id)
    assert spec.entry_point is not None
    check_kwargs(env_id, spec.entry_point, kwargs, also=(*OUR_KWARGS, "max_episode_steps"))
    if render_mode is not None:
        check_render_mode(env_id, spec.entry_point, render_mode)
    rendering: Kwargs = {} if render_mode is None else {"render_mode": render_mode}
    try:
        # The door checks what Gymnasium's checker would, at every step and in one line.
        env = gymnasium.make(spec, disable_env_checker=True, **(kwargs | rendering))
    except UserError:
        raise
    except Exception as error:
        raise could_not_make(env_id, kwargs | rendering, error) from error
    return wrapped(env, ours.get(WRAPPERS, ()), env_id)


def _vector_only(env_id: str, kwargs: Kwargs) -> Callable[[int], VecEnv] | None:
    """What makes an environment of a seed that exists vectorized only; None if there is a Python form."""
    spec, name = find_spec(env_id), split_id(env_id)[1]
    if spec is None and name in known_ids():
        return lambda seed: make_envpool(name, [seed], kwargs, None)
    if spec is not None and spec.entry_point is None:
        return lambda seed: _make_native(env_id, 1, seed, kwargs, None)
    return None


def _has_mask(env: gymnasium.Env[Any, Any], env_id: str, env_kwargs: Kwargs | None) -> bool:
    """Whether an environment tells its legal actions, by a method or in the info of its first observation."""
    if action_masks_of(env) is not None:
        return True
    if not (env_kwargs or {}).get(WRAPPERS) and split_id(env_id)[1].startswith(
        ("mnm/", "MiniGrid-", "BabyAI-")
    ):
        return False
    return _mask_in_info(
        env_id, repr(sorted((env_kwargs or {}).items())), lambda: make_plain(env_id, env_kwargs)
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
            with pygame_kept(True):  # the first one is open
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


def _fast_forms(env_id: str, kwargs: Kwargs, ours: Kwargs) -> list[str]:
    """The faster forms that may take the place of the Python environment, best first."""
    if ours.get(WRAPPERS):
        return []
    spec, name, forms = find_spec(env_id), split_id(env_id)[1], []
    if spec is not None and spec.vector_entry_point is not None:
        names = accepted_kwargs(spec.vector_entry_point)
        if names is None or set(kwargs) <= set(names):
            forms.append("native")
    if (spec is None or has_faithful_copies(spec)) and refusal(name, kwargs) is None:
        forms.append("envpool")
    return forms


def _difference(vec: VecEnv, env_id: str, env_kwargs: Kwargs | None) -> str | None:
    """Where a faster form differs from the environment on which agents are evaluated; None if nowhere.

    Raises UserError if that one cannot be made or reset.
    """
    single = make_single(env_id, env_kwargs)
    try:
        single.reset(seed=0)
    finally:
        single.close()
    pairs = {
        "observations": (vec.observation_space, single.observation_space),
        "actions": (vec.action_space, single.agent_action_space),
    }
    for what, (fast, python) in pairs.items():
        if space_form(fast) != space_form(python):
            return (
                f"the {what} of its {vec.backend} form are {space_form(fast)}, "
                f"of its Python form {space_form(python)}"
            )
    return None


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
        watch()
        vector: Any = SyncVectorEnv(makers, autoreset_mode=mode)
    else:
        vector = AsyncVectorEnv(makers, autoreset_mode=mode)
    return GymnasiumVecEnv(vector, first_seed, backend, env_id, actions, rule, timeout)


def _make_recorded(env: EnvLike, env_kwargs: Kwargs | None, number: int, backend: str) -> Replay:
    """One environment of a sync or async vector; a module-level function, so that other processes find it."""
    # AsyncVectorEnv makes one environment in the training process too, to look at its spaces.
    if backend == "async" and multiprocessing.parent_process() is not None:
        # Signals reach every process of a terminal or a job; the one that trains stops its workers in order.
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(name, signal.SIG_IGN)
        end_with_parent()
    return Replay(make_single(env, env_kwargs, number=number, bare=True))
