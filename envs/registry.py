"""From an id on a command line to a registered environment and its arguments, with errors that help."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from envs.envpool_backend import known_ids
from envs.errors import UserError, first_line, nearest
from envs.user_modules import import_user_module


def split_id(env_id: str) -> tuple[str | None, str]:
    """`module:EnvId` as (module, EnvId); the module is None where there is none."""
    module, separator, name = env_id.rpartition(":")
    return (module if separator else None), name


def import_module_of(env_id: str) -> str:
    """Import the module before the colon, so that it can register its environments; gives the bare id."""
    module, name = split_id(env_id)
    if module is None:
        return name
    import_user_module(module, env_id)
    return name


SUITES = {
    "ALE/": ("ale_py", "ale-py"),
    "popgym-": ("popgym", "popgym"),
    "Vizdoom": ("vizdoom.gymnasium_wrapper", "vizdoom"),
    "FlappyBird-": ("flappy_bird_gymnasium", "flappy-bird-gymnasium"),
    **dict.fromkeys(
        ("highway-", "exit-v", "intersection-", "lane-keeping-", "merge-", "parking-", "racetrack-", "roundabout-",
         "two-way-", "u-turn-"), ("highway_env", "highway-env"),
    ),
    **dict.fromkeys(
        ("MortarMayhem", "MysteryPath", "SearingSpotlights", "Endless-"), ("memory_gym", "memory-gym")
    ),
    **dict.fromkeys(("Fetch", "HandReach-", "AntMaze_", "PointMaze_", "AdroitHand"),
                    ("gymnasium_robotics", "gymnasium-robotics")),
    "MiniWorld-": ("miniworld", "miniworld"),
    "mo-": ("mo_gymnasium", "mo-gymnasium"),
}  # fmt: skip
"""Beginnings of ids that a package registers when it is imported: (module, what pip installs)."""


EnvLike = str | Callable[..., gymnasium.Env[Any, Any]] | gymnasium.Env[Any, Any]
"""An id, a class or function that makes an environment, or an environment, of which copies are used."""
PYTHON = "python/"
"""Beginning of the ids of what a program gives instead of an id."""
_given: dict[str, tuple[Any, EnvSpec]] = {}


def id_of(env: EnvLike) -> str:
    """The id under which everything here knows an environment: `module:Name` where a module holds it by that name.

    Else one that only this process knows.
    """
    if isinstance(env, str):
        return env
    if not callable(env) and not isinstance(env, gymnasium.Env):
        raise UserError(
            f"an environment is an id, something that makes one, or a gymnasium.Env, not {type(env).__name__}"
        )
    module, name = getattr(env, "__module__", None), getattr(env, "__qualname__", "")
    if module not in (None, "__main__") and name.isidentifier():
        return f"{module}:{name}"
    return _given_id(
        env, name.rpartition(".")[2].strip("<>") or type(getattr(env, "unwrapped", env)).__name__
    )


def _given_id(env: Any, name: str) -> str:
    number = 1
    while True:
        env_id = f"{PYTHON}{name}{number if number > 1 else ''}-v0"
        known = _given.get(env_id)
        if known is None:
            make = partial(_copy_of, env) if isinstance(env, gymnasium.Env) else env
            _given[env_id] = env, EnvSpec(env_id, entry_point=make)
        if known is None or known[0] is env:
            return env_id
        number += 1


def _copy_of(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    try:
        return copy.deepcopy(env)
    except Exception as error:
        raise UserError(
            f"{type(env.unwrapped).__name__} cannot be copied ({first_line(error)}): give what makes it, lambda: ..."
        ) from error


def suite_of(name: str) -> tuple[str, str] | None:
    """The (module, distribution) that registers an id, where it is one of `SUITES`."""
    return next((suite for start, suite in SUITES.items() if name.startswith(start)), None)


def find_spec(env_id: str) -> EnvSpec | None:
    """What Gymnasium knows about an id, after importing its module or its suite; None if it knows nothing.

    Of `module:Name` the name may also be that of a class or function that makes the environment.
    """
    if env_id in _given:
        return _given[env_id][1]
    name, suite = import_module_of(env_id), suite_of(split_id(env_id)[1])
    if name not in gymnasium.registry and suite is not None and _is_installed(suite[0]):
        try:
            importlib.import_module(suite[0])
        except Exception as error:
            raise UserError(
                f"cannot import {suite[0]!r}, which registers {name}: {type(error).__name__}: {first_line(error)}"
            ) from error
    spec = gymnasium.registry.get(name)
    if spec is None and (module := split_id(env_id)[0]) is not None:
        make = getattr(sys.modules.get(module), name, None)
        return EnvSpec(f"{name}-v0", entry_point=make) if callable(make) else None
    return spec


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def require_spec(env_id: str) -> EnvSpec:
    """What Gymnasium knows about an id, or an error with the nearest ids."""
    spec = find_spec(env_id)
    if spec is not None:
        return spec
    if env_id.startswith(PYTHON):
        raise UserError(
            f"{env_id} is an environment that a program gave; only there it can be made again: "
            "agents.api.Agent.load(path, env=...)"
        )
    module, name = split_id(env_id)
    pool_ids = known_ids()
    if name in pool_ids:
        raise UserError(f"{name} exists only in EnvPool, not as a Python environment: use backend envpool")
    suite = suite_of(name)
    if suite is not None and module is None and not _is_installed(suite[0]):
        raise UserError(f"{name} comes with another package: pip install {suite[1]}")
    close = nearest(name, [*gymnasium.registry, *pool_ids])
    hint = f"did you mean {close}?" if close else "write module:EnvId for an environment of your own"
    where = f" (module {module!r} does not register it)" if module else ""
    raise UserError(f"unknown environment {name!r}{where}: {hint}")


def has_faithful_copies(spec: EnvSpec) -> bool:
    """Whether EnvPool may stand in for this environment: only for Gymnasium's, MiniGrid's and Atari's own.

    An id that somebody else registered is never replaced, though EnvPool may know an environment of that
    name.
    """
    entry_point = spec.entry_point
    module = (
        entry_point.split(":")[0] if isinstance(entry_point, str) else getattr(entry_point, "__module__", "")
    )
    return str(module).split(".")[0] in ("gymnasium", "minigrid", "ale_py")


def accepted_kwargs(entry_point: Any) -> list[str] | None:
    """Names of the keyword arguments of an environment's constructor; None if it takes any (`**kwargs`)."""
    try:
        creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
        parameters = inspect.signature(creator).parameters.values()
    except Exception:  # a constructor that cannot be inspected is tried as it is
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters if parameter.name not in ("num_envs", "render_mode")]


def takes_render_mode(creator: Any) -> bool:
    """Whether what makes an environment has a say in how it is drawn."""
    try:
        parameters = inspect.signature(creator).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.name == "render_mode" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def check_kwargs(env_id: str, entry_point: Any, env_kwargs: dict[str, Any], also: tuple[str, ...]) -> None:
    """Refuse arguments that neither the constructor nor we (`also`) know, naming those that are known."""
    names = accepted_kwargs(entry_point)
    if names is None:
        return
    names = [*names, *also]
    for key in env_kwargs:
        if key not in names:
            close = nearest(key, names, limit=1)
            hint = f" (did you mean {close}?)" if close else ""
            raise UserError(f"{env_id} has no env kwarg {key!r}; it accepts {', '.join(names)}{hint}")


def check_render_mode(env_id: str, entry_point: Any, render_mode: str) -> None:
    """Refuse a render mode that the environment's class does not offer; factory functions are tried as they are."""
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    metadata = getattr(creator, "metadata", None)
    if not isinstance(metadata, dict):
        return
    offered = metadata.get("render_modes") or []
    if render_mode not in offered and not (render_mode == "human" and "rgb_array" in offered):
        raise UserError(
            f"{env_id} cannot render {render_mode!r}; it offers {', '.join(offered) or 'nothing'}"
        )


def could_not_make(env_id: str, env_kwargs: dict[str, Any], error: Exception) -> UserError:
    """The error for a constructor that refused its arguments, or that makes no Gymnasium environment."""
    if isinstance(error, TypeError) and ("Gym is incompatible" in str(error) or "must inherit" in str(error)):
        return UserError(
            f"{env_id} is no gymnasium.Env: it has the API of old gym. Make it one, or play it through shimmy "
            "(pip install shimmy gym): --env shimmy:GymV21Environment-v0 --env-kwargs "
            '\'{"env_id": "..."}\', for gym 0.26 GymV26Environment-v0'
        )
    return UserError(f"could not make {env_id} with env kwargs {env_kwargs}: {first_line(error)}")
