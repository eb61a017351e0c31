"""What every validity report begins with: the episodes of an agent, and whether it is known which step they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.evaluation import LoadedAgent
from recall.validate.checks import Check, Limits, ValidityReport, not_applicable, verdict_of
from recall.validate.planted import PlayedEpisode, about, make_env, play_planted
from recall.validate.ranking import RankingResult

Progress = Callable[[str], None]
Pair = tuple[PlayedEpisode, PlayedEpisode]


@dataclass
class Study:
    """The episodes of one report; what makes checks of them derives from it."""

    agent: LoadedAgent
    played: list[PlayedEpisode]
    """Held-out episodes of evaluation seed `seed`, played greedily."""
    seed: int
    limits: Limits
    progress: Progress

    def __post_init__(self) -> None:
        self.planted = [episode for episode in self.played if episode.planted]
        self.success = float(np.mean([episode.success for episode in self.played]))
        self.needs_cue = any(episode.cue >= 0 for episode in self.played)
        env = make_env(self.agent)
        self.visible = bool(getattr(env.unwrapped, "always_visible", False))
        env.close()
        self.rankings: list[RankingResult] = []
        self.measures: dict[str, Any] = {}

    @property
    def no_plan(self) -> str:
        """Why the needed step is not known here; empty if it is."""
        if self.visible:
            return "the cue is visible at the decision: nothing has to be remembered"
        if not self.needs_cue:
            where = "(info['cue_step'] or info['needed_steps'])"
            return f"{self.agent.config.env} does not say which step is needed {where}"
        return "" if self.planted else "in no episode did the agent see the cue and then reach the decision"

    @property
    def too_weak(self) -> str:
        """Why the recalls of this agent say nothing; empty if it is good enough."""
        least = self.limits.success
        if self.success >= least:
            return ""
        return f"the agent succeeds in {self.success:.2f} of the episodes, {least} are needed"

    def flipped(self, names: tuple[str, ...]) -> tuple[list[Pair], list[Check]]:
        """Each episode beside the same one with the other cue; where there are none, what the checks `names` say."""
        if self.no_plan:
            return [], [not_applicable(name, self.no_plan) for name in names]
        self.progress("flipped cues")
        twins = play_planted(self.agent, len(self.played), self.seed, flip=True)
        pairs = [
            (a, b)
            for a, b in zip(self.played, twins, strict=True)
            if a.planted and b.planted and a.cue != b.cue
        ]
        reason = f"{self.agent.config.env} does not take reset(options={{'flip_cue': True}})"
        return pairs, [] if pairs else [not_applicable(name, reason) for name in names]

    def report(self, checks: list[Check], first: str, shown: str) -> ValidityReport:
        """All checks together; `first` is the check without which nothing is `shown`."""
        return ValidityReport(
            agent=about(self.agent, len(self.played), self.seed, self.success, len(self.planted)),
            limits=self.limits,
            rankings=self.rankings,
            checks=checks,
            verdict=verdict_of(checks, first, shown),
            measures=self.measures,
        )
