"""Held-out evaluation during training: greedy episodes on levels that training never sees.

The levels are those of `evaluate.py --seed 0`, the same at every evaluation. Nothing of the training changes: neither
its environments nor its random streams take part.
"""

from __future__ import annotations

import math
from typing import Any

from agents.config import TrainConfig
from agents.distributed import ALONE, Ranks
from agents.episodes import success_rate
from agents.evaluation import LoadedAgent, play_episodes
from agents.model import ActorCritic

COLUMNS = ("eval_return_mean", "eval_length_mean", "eval_success_rate")


class HeldOut:
    """Knows when an evaluation is due, and plays it on rank 0."""

    def __init__(self, config: TrainConfig, model: ActorCritic, ranks: Ranks = ALONE) -> None:
        self.config, self.model, self.ranks = config, model, ranks
        self.next_frames = config.eval_every

    @property
    def is_on(self) -> bool:
        return self.config.eval_every > 0

    def play(self, frames: int, last: bool) -> dict[str, float] | None:
        """The means of an evaluation after `frames` frames, on every rank; None if none is due."""
        if not self.is_on or not (last or frames >= self.next_frames):
            return None
        self.next_frames = (frames // self.config.eval_every + 1) * self.config.eval_every
        return self.ranks.from_first(lambda: self._means(frames))

    def columns(self, evaluated: dict[str, float] | None) -> dict[str, float]:
        """The columns of a row of metrics.csv: none if this is off, empty where nothing was evaluated."""
        if not self.is_on:
            return {}
        return dict.fromkeys(COLUMNS, math.nan) if evaluated is None else evaluated

    def state_dict(self) -> dict[str, Any]:
        return {"is_on": self.is_on, "next_frames": self.next_frames}

    def load_state_dict(self, saved: dict[str, Any] | None) -> bool:
        """Continue where `state_dict` was taken; whether `best` is still chosen by the same measure."""
        saved = saved or {"is_on": False, "next_frames": 0}
        if self.is_on and saved["is_on"]:
            self.next_frames = int(saved["next_frames"])
        return bool(saved["is_on"] == self.is_on)

    def _means(self, frames: int) -> dict[str, float]:
        agent = LoadedAgent(self.model, self.config, frames, "in training")
        results = play_episodes(agent, self.config.eval_episodes)
        count = len(results)
        means = (
            sum(result.episode_return for result in results) / count,
            sum(result.length for result in results) / count,
            success_rate([result.success for result in results]),
        )
        return dict(zip(COLUMNS, means, strict=True))
