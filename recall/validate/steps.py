"""The validity report of step removal (R5), for cores with nothing but a state and for agents trained elsewhere.

R5 is exact: it is the agent replayed without a step. What remains to be shown by experiment is what it means: that
the step of the planted cue comes first when the cue is needed, with either cue; that removing it, and not another
step of about that age, changes what the agent does and what it earns; that showing the other cue in its own steps
makes the agent act as if the other cue had been there; and that nothing of all this holds for fresh weights, or
where nothing has to be remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluation import LoadedAgent
from agents.play import Actor
from recall.scores.from_tape import rank
from recall.scores.recalls import Thresholds
from recall.scores.registry import SCORES, Sources
from recall.scores.steps import all_forgotten, without_steps
from recall.validate.checks import Check, Limits, ValidityReport, decide, not_applicable
from recall.validate.controls import untrained_model
from recall.validate.deletion import acts_otherwise, closed_loop
from recall.validate.planted import PlayedEpisode, make_env, play_planted
from recall.validate.ranking import blind_scores, bootstrap, judge, scores_at_decision
from recall.validate.study import Study

Float = NDArray[np.float64]
R5 = SCORES["step"]
PLANTED = "planted cue, R5"
SHOWN = "R5 names the steps that the agent used"


def check_steps(
    agent: LoadedAgent,
    episodes: int,
    seed: int,
    control: LoadedAgent | None,
    limits: Limits,
    progress: Callable[[str], None],
) -> ValidityReport:
    """Play `episodes` held-out episodes greedily and make every check that the environment allows."""
    progress("playing")
    study = StepStudy(agent, play_planted(agent, episodes, seed), seed, limits, progress)
    checks = [
        *study.planted_checks(),
        *study.removal_checks(),
        *study.flip_checks(),
        study.forgotten_check(),
        study.control_check(control),
    ]
    return study.report(checks, PLANTED, SHOWN)


class StepStudy(Study):
    """The checks of step removal."""

    @property
    def model(self) -> Actor:
        """What is checked."""
        return self.agent.model

    def planted_checks(self) -> list[Check]:
        """R5 must rank the cue's step first; that of fresh weights must not."""
        names = (PLANTED, "untrained agent")
        if self.no_plan:
            return [not_applicable(name, self.no_plan) for name in names]
        self.progress("scores at the decision step")
        scores, seconds = scores_at_decision(self.planted, "other", self.model)
        self.rankings = [judge(name, rows, self.planted, seconds[name]) for name, rows in scores.items()]
        blind = [
            judge(name, rows, self.planted) for name, rows in blind_scores(self.planted, self.seed).items()
        ]
        self.rankings += blind
        best = max(row.hit_1.mean for row in blind)
        hits = next(row for row in self.rankings if row.name == R5.title).hit_1
        checks = [
            not_applicable(PLANTED, self.too_weak)
            if self.too_weak
            else decide(PLANTED, hits.mean >= self.limits.hit_1, f"hit@1 {hits}, best baseline {best:.2f}",
                        f"hit@1 >= {self.limits.hit_1}", hit_1=hits.mean)
        ]  # fmt: skip
        if not self.agent.can_be_made_anew:
            return [*checks, not_applicable(names[1], "an agent of your own cannot be made anew")]
        self.progress("untrained agent")
        fresh = untrained_model(self.agent)
        found = [r5_of(fresh, e) for e in self.planted]
        self.rankings.append(judge("R5, untrained agent", found, self.planted))
        shown = bootstrap([float(_shows(row, e)) for row, e in zip(found, self.planted, strict=True)])
        limit = best + self.limits.above_baseline
        demanded = f"<= {limit:.2f} (best blind baseline + {self.limits.above_baseline})"
        figure = f"cue's step first and not grey in {shown}"
        return [*checks, decide(names[1], shown.mean <= limit, figure, demanded, shown=shown.mean)]

    def removal_checks(self) -> list[Check]:
        """The top step by R5 against a random other step of about its age, open and closed loop."""
        names = ("removal flips", "random removal does not", "removal costs return")
        if self.no_plan:
            return [not_applicable(name, self.no_plan) for name in names]
        pool = [episode for episode in self.planted if episode.decision >= 2]
        if not pool:
            return [not_applicable(name, "fewer than 2 steps before the decision") for name in names]
        self.progress("removal of the top step")
        rng, env, flips, returns = np.random.default_rng(self.seed), make_env(self.agent), [], []
        for episode in pool:
            t = episode.decision
            top = rank(r5_of(self.model, episode), t, 1)[0]
            sets = [[top], [nearby(top, t, rng)]]
            policies, states = without_steps(self.model, episode.tape, t, sets)
            flips.append([float(acts_otherwise(policies[0], policy)) for policy in policies[1:]])
            forms = dict(zip(("top", "random"), states[1:], strict=True))
            found = closed_loop(self.model, env, episode, forms)
            returns.append([found["top"], found["random"]])
        env.close()
        (top_flips, random_flips), earned = np.array(flips).T, np.array(returns)
        costs = bootstrap(earned[:, 1] - earned[:, 0])
        return [
            decide(names[0], top_flips.mean() >= self.limits.deletion_flips,
                   f"top step removed: action changes in {bootstrap(top_flips)}",
                   f">= {self.limits.deletion_flips}", flips=float(top_flips.mean())),
            decide(names[1], random_flips.mean() <= self.limits.random_flips,
                   f"a random step of about its age removed: {bootstrap(random_flips)}",
                   f"<= {self.limits.random_flips}", flips=float(random_flips.mean())),
            decide(names[2], costs.low > 0, f"return, random minus top removed: {costs}", "interval above 0",
                   top=float(earned[:, 0].mean()), random=float(earned[:, 1].mean())),
        ]  # fmt: skip

    def flip_checks(self) -> list[Check]:
        """The same episodes with the other cue, and with the other cue in its own steps alone."""
        names = ("cue flip changes the action", "cue recalled in both", "the other cue in its steps alone")
        pairs, none = self.flipped(names)
        if none:
            return none
        flips = bootstrap([float(_action(a) != _action(b)) for a, b in pairs])
        both = bootstrap([float(all(self._first_is_cue(e) for e in pair)) for pair in pairs])
        swapped = bootstrap([float(self._acts_as(a, b)) for a, b in pairs])
        return [
            decide(names[0], flips.mean >= self.limits.cue_flips, f"in {flips} of {len(pairs)} pairs",
                   f">= {self.limits.cue_flips}"),
            decide(names[1], both.mean >= self.limits.recalled_in_both, f"cue's step first in both: {both}",
                   f">= {self.limits.recalled_in_both}"),
            decide(names[2], swapped.mean >= self.limits.deletion_flips,
                   f"acts as with the other cue in {swapped}", f">= {self.limits.deletion_flips}"),
        ]  # fmt: skip

    def _first_is_cue(self, episode: PlayedEpisode) -> bool:
        return rank(r5_of(self.model, episode), episode.decision, 1)[0] in episode.needed

    def _acts_as(self, clean: PlayedEpisode, flipped: PlayedEpisode) -> bool:
        """Whether the action at the decision is that of the twin once its cue is shown in the cue's steps."""
        # Step by step from the latest backwards: the twin may have had its cue in view for another time.
        mine, theirs = sorted(clean.needed)[::-1], sorted(flipped.needed)[::-1]
        theirs += theirs[-1:] * (len(mine) - len(theirs))
        observation = {}
        for name, part in clean.tape.observation.items():
            observation[name] = part.copy()
            observation[name][mine] = flipped.tape.observation[name][theirs[: len(mine)]]
        policies, _ = without_steps(
            self.model, replace(clean.tape, observation=observation), clean.decision, []
        )
        acts = policies[0].mode().cpu().numpy().tolist()
        return bool(acts == _action(flipped) != _action(clean))

    def forgotten_check(self) -> Check:
        """Does the decision hang on what came before at all?"""
        name = "the state carries the decision"
        pool = self.planted if self.needs_cue else self.played
        if self.visible or not pool:
            return not_applicable(name, self.no_plan)
        self.progress("all forgotten")
        changed = []
        for episode in pool:
            everything = [list(range(episode.decision))]
            policies, _ = without_steps(self.model, episode.tape, episode.decision, everything)
            changed.append(float(acts_otherwise(policies[0], policies[1])))
        flips = bootstrap(changed)
        return decide(name, flips.mean >= self.limits.wiped_flips, f"all forgotten: action changes in {flips}",
                      f">= {self.limits.wiped_flips}", flips=flips.mean)  # fmt: skip

    def control_check(self, control: LoadedAgent | None) -> Check:
        """On a fully observed task nothing that came before may matter."""
        name = "memory not used where all is visible"
        if not self.visible and control is None:
            return not_applicable(name, "no control agent was given (trained with always_visible)")
        agent = self.agent if self.visible or control is None else control
        played = self.played if self.visible else play_planted(agent, len(self.played), self.seed)
        moved = np.array([all_forgotten(agent.model, e.tape, e.decision)[e.decision] for e in played])
        share = float((moved <= self.limits.not_used_probability).mean())
        return decide(name, share >= self.limits.not_used, f"at the decision in {share:.2f} of {len(played)} episodes",
                      f">= {self.limits.not_used}", share=share)  # fmt: skip


def r5_of(model: Actor, episode: PlayedEpisode) -> Float:
    """R5 of the steps before the decision, [t]."""
    return R5.at(Sources(episode.tape, model), episode.decision)


def _shows(scores: Float, episode: PlayedEpisode) -> bool:
    """Whether a panel would show the cue's step first, and not in grey.

    A state that was never trained also takes in what stands out, such as the one cue in an empty corridor; its
    policy does not care.
    """
    first = rank(scores, episode.decision, 1)[0]
    return first in episode.needed and bool(scores[first] >= Thresholds().divergence)


def nearby(top: int, t: int, rng: np.random.Generator) -> int:
    """A random step before t other than `top`, at most a quarter of t away from it; t is at least 2."""
    reach = max(2, t // 4)
    return int(rng.choice([s for s in range(t) if s != top and abs(s - top) <= reach]))


def _action(episode: PlayedEpisode) -> Any:
    return episode.tape.action[episode.decision].tolist()
