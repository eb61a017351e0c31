"""Two agents on the same held-out episodes: what each earns, and how much the difference is to be believed.

An episode is its seed and its number, so both meet the same levels and, under the sampled policy, the same random
draws. Episodes are therefore compared in pairs: the interval is that of the mean difference within an episode, in
which it does not matter that some levels are harder than others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluation import EpisodeResult, LoadedAgent, bootstrap_interval
from agents.hints import is_elsewhere
from envs import make_single
from envs.errors import UserError
from envs.wrapper_names import WRAPPERS


def check_comparable(names: tuple[str, str], agents: tuple[LoadedAgent, LoadedAgent]) -> None:
    """Refuse agents that cannot play the same episodes in the same steps; raises UserError."""
    ours, theirs = (agent.config for agent in agents)
    kwargs = [agent.config.env_arguments() for agent in agents]
    for arguments in kwargs:
        arguments.pop(WRAPPERS, None)  # what an agent sees may differ, what happens may not
    differing: dict[str, tuple[Any, Any]] = {
        "in": (ours.env, theirs.env),
        "with --env-kwargs": (kwargs[0], kwargs[1]),
        "with --frame-skip": (ours.frame_skip, theirs.frame_skip),
    }
    for word, (mine, other) in differing.items():
        if mine != other:
            raise UserError(
                f"{names[1]} plays {word} {other}, {names[0]} {word} {mine}: only agents that play the same episodes "
                "can be compared (--env and --env-kwargs hold for both)"
            )
    spaces = []
    for config in (ours, theirs):
        env = make_single(config.env, config.env_arguments())
        spaces.append(env.agent_action_space)
        env.close()
    if spaces[0] != spaces[1]:
        raise UserError(f"{names[1]} acts in {spaces[1]}, {names[0]} in {spaces[0]}: their steps differ")


def names_of(
    asked: tuple[str, str],
    agents: tuple[LoadedAgent, LoadedAgent],
    told_by: tuple[tuple[str, str], tuple[str, str]],
) -> tuple[str, str]:
    """What two agents are called: the run and its core, or the name of one trained elsewhere.

    Where these are the same, `told_by` tells them apart: the checkpoints of runs, and the arguments of the others.
    """
    names = []
    for name, agent, checkpoint, kwargs in zip(asked, agents, *told_by, strict=True):
        elsewhere = is_elsewhere(name)
        names.append(
            (name, kwargs) if elsewhere else (f"{Path(name).name} ({agent.config.core})", checkpoint)
        )
    same = names[0][0] == names[1][0]
    first, second = (f"{name}, {extra}" if same else name for name, extra in names)
    return first, second


def first_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> int | None:
    """The first step at which two lists of actions differ; None if there is none."""
    return next(
        (t for t, pair in enumerate(zip(ours, theirs, strict=False)) if not np.array_equal(*pair)), None
    )


def comparison(ours: Sequence[EpisodeResult], theirs: Sequence[EpisodeResult]) -> dict[str, Any]:
    """What `evaluate.py --against` adds to the numbers of the two agents; every difference is ours minus theirs.

    The results are of the same episodes, played with `keep_actions`.
    """
    if [result.seed for result in ours] != [result.seed for result in theirs]:
        raise ValueError("these are not the same episodes")
    returns, success, length = (
        np.array(
            [float(getattr(a, name)) - float(getattr(b, name)) for a, b in zip(ours, theirs, strict=True)]
        )
        for name in ("episode_return", "success", "length")
    )
    return {
        "return_difference": float(returns.mean()),
        "return_difference_interval_95": list(bootstrap_interval(returns)),
        "success_difference": _mean(success),
        "success_difference_interval_95": _interval(success),
        "length_difference": float(length.mean()),
        "episodes_better": int((returns > 0).sum()),
        "episodes_worse": int((returns < 0).sum()),
        "episodes_equal": int((returns == 0).sum()),
        "first_difference": [
            first_difference(a.actions, b.actions) for a, b in zip(ours, theirs, strict=True)
        ],
    }


def table(ours: dict[str, Any], theirs: dict[str, Any], both: dict[str, Any]) -> list[list[str]]:
    """Lines [what, of ours, of theirs, difference] from two reports of `agents.evaluation` and a `comparison`."""
    lines = [
        [
            "return",
            *(_with_interval(x["return_mean"], x["return_interval_95"]) for x in (ours, theirs)),
            _with_interval(both["return_difference"], both["return_difference_interval_95"], "+"),
        ]
    ]
    if both["success_difference"] is not None:
        lines.append(
            [
                "success",
                *(_with_interval(x["success_rate"], x["success_interval_95"]) for x in (ours, theirs)),
                _with_interval(both["success_difference"], both["success_difference_interval_95"], "+"),
            ]
        )
    lengths = [f"{x['length_mean']:.1f}" for x in (ours, theirs)]
    return [*lines, ["length", *lengths, f"{both['length_difference']:+.1f}"]]


def rows_of(names: tuple[str, str], lines: list[list[str]]) -> list[str]:
    """A `table` for a terminal: a row for each agent, and one for the difference."""
    heads = [*names, "difference, paired"]
    width = max(map(len, heads))
    return [
        f"{head:{width}}  " + "  ".join(f"{line[0]} {line[n]}" for line in lines)
        for n, head in enumerate(heads, start=1)
    ]


def in_words(both: dict[str, Any]) -> str:
    """Where the episodes went otherwise, in one sentence."""
    parted = [t for t in both["first_difference"] if t is not None]
    episodes = len(both["first_difference"])
    words = (
        f"better in {both['episodes_better']} of {episodes} episodes, worse in {both['episodes_worse']}, equal in "
        f"{both['episodes_equal']}; "
    )
    if not parted:
        return words + "the actions never differ"
    return words + f"actions part in {len(parted)}, at step {int(np.median(parted))} (median)"


def _with_interval(mean: float, interval: Sequence[float], sign: str = "") -> str:
    low, high = interval
    return f"{mean:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def _mean(values: NDArray[np.float64]) -> float | None:
    return None if math.isnan(values.sum()) else float(values.mean())


def _interval(values: NDArray[np.float64]) -> list[float] | None:
    return None if math.isnan(values.sum()) else list(bootstrap_interval(values))
