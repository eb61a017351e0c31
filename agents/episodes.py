"""Statistics of the episodes that end while training: our own count, from valid rows alone."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from agents.distributed import ALONE, Ranks
from envs import VecStep

WINDOW = 100
"""Episodes over which training statistics are averaged."""


def is_success(rule: str | None, episode_return: float, terminated: bool, told: float | None = None) -> float:
    """1.0 or 0.0: what the environment told, else by its rule; NaN where it has neither."""
    if told is not None and not math.isnan(told):
        return float(told)
    if rule is None:
        return float("nan")
    return float(terminated and episode_return > 0.0)


def success_rate(successes: Sequence[float]) -> float:
    """The fraction of successes; NaN if no episode says.

    Some environments mention success only where there is one: beside an episode that says, a silent one is a failure.
    """
    values = np.asarray(successes, np.float64)
    return float("nan") if np.isnan(values).all() else float(np.nan_to_num(values).mean())


class EpisodeLog:
    """Running return and length of every environment, and the last WINDOW finished episodes."""

    def __init__(self, num_envs: int, success_rule: str | None) -> None:
        self.success_rule = success_rule
        self.running_return = np.zeros(num_envs)
        self.running_length = np.zeros(num_envs, dtype=np.int64)
        self.finished: deque[tuple[float, int, float]] = deque(maxlen=WINDOW)
        self.count = 0
        self.steps = 0
        self.fresh: list[tuple[int, tuple[float, int, float]]] = []
        """Episodes that no `merge` has seen yet, each after the step in which it ended."""

    def add(self, step: VecStep) -> None:
        """Take in one step of all environments; the call that merely resets one does not count."""
        self.running_return += np.where(step.valid, step.reward, 0.0)
        self.running_length += step.valid
        self.steps += 1
        for n in np.flatnonzero(step.terminated | step.truncated):
            episode_return = float(self.running_return[n])
            told = None if step.success is None else float(step.success[n])
            success = is_success(self.success_rule, episode_return, bool(step.terminated[n]), told)
            self.fresh.append((self.steps, (episode_return, int(self.running_length[n]), success)))
            self.running_return[n], self.running_length[n] = 0.0, 0

    def merge(self, ranks: Ranks = ALONE) -> None:
        """Count what ended since the last call, on all ranks, in the order in which it ended."""
        ended = sorted(itertools.chain(*ranks.gather(self.fresh)), key=lambda entry: entry[0])
        self.finished.extend(episode for _, episode in ended)
        self.count += len(ended)
        self.steps, self.fresh = 0, []

    def abandon(self, which: np.ndarray) -> None:
        """Forget the unfinished episodes of the environments `which` [N], because these were started anew."""
        self.running_return[which], self.running_length[which] = 0.0, 0

    def unfinished(self) -> str:
        """Before any episode has ended: how long those are that run, and what they returned so far."""
        if self.count or not self.running_length.any():
            return ""
        return (
            f"  no episode has ended: {self.running_length.mean():,.0f} steps and return "
            f"{self.running_return.mean():.2f} so far"
        )

    def summary(self) -> dict[str, float]:
        """Means over the last WINDOW episodes; NaN before the first one ended."""
        if not self.finished:
            return {"return_mean": float("nan"), "length_mean": float("nan"), "success_rate": float("nan"),
                    "episodes": 0}  # fmt: skip
        returns, lengths, successes = zip(*self.finished, strict=True)
        return {
            "return_mean": float(np.mean(returns)),
            "length_mean": float(np.mean(lengths)),
            "success_rate": success_rate(successes),
            "episodes": self.count,
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {
            "running_return": self.running_return.tolist(),
            "running_length": self.running_length.tolist(),
            "finished": [list(episode) for episode in self.finished],
            "count": self.count,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; other environments open new episodes."""
        if len(saved["running_return"]) == len(self.running_return):
            self.running_return[:] = saved["running_return"]
            self.running_length[:] = saved["running_length"]
        self.finished = deque(((r, int(length), s) for r, length, s in saved["finished"]), maxlen=WINDOW)
        self.count = int(saved["count"])
