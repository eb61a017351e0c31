"""The validity report: experiments that could show that the recalls of an agent mean nothing.

    report = check_recall(load_agent(...), episodes=200, seed=0)
    report.print(console);  json.dumps(report.to_json())

Each experiment is described where it is made: the planted cue in `ranking.py`, deletion and wiping in
`deletion.py`, randomisation, cue flip and the fully observed control in `controls.py`; the thresholds are in
`checks.py` and in docs/validity.md. A FAIL is a finding about the agent or the score, not an error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from agents.distributions import ActionDistribution
from agents.evaluation import LoadedAgent
from envs.errors import UserError
from recall.scores.decision import state_before
from recall.scores.from_tape import (
    interaction_residual,
    keep_only_one,
    leave_one_write_out,
    symmetrised_residual,
    use_share,
)
from recall.scores.registry import SCORES, Sources, kind_of
from recall.validate.addresses import check_addresses
from recall.validate.checks import Check, Limits, ValidityReport, decide, not_applicable
from recall.validate.controls import (
    FlipResult,
    flip_result,
    not_used_share,
    permuted_rankings,
    read_off_result,
    untrained_ranking,
)
from recall.validate.deletion import (
    Sets,
    acts_otherwise,
    answers,
    choose_sets,
    closed_loop,
    open_loop,
    variants,
)
from recall.validate.planted import PlayedEpisode, make_env, play_planted
from recall.validate.ranking import (
    BLIND_BASELINES,
    R2,
    R4,
    baseline_scores,
    bootstrap,
    judge,
    scores_at_decision,
)
from recall.validate.steps import check_steps
from recall.validate.study import Progress, Study

Float = NDArray[np.float64]


def check_recall(
    agent: LoadedAgent,
    episodes: int = 200,
    seed: int = 0,
    control: LoadedAgent | None = None,
    limits: Limits | None = None,
    progress: Progress = lambda stage: None,
) -> ValidityReport:
    """Play `episodes` held-out episodes greedily and make every check that the environment allows.

    `control` is an agent of the same kind that was trained where nothing has to be remembered (a T-maze with
    `always_visible`). A hard memory has checks of its own, in `addresses.py`, and so has an agent that only carries a
    state, in `steps.py`.
    """
    limits = limits or Limits()
    kind = kind_of(agent.model.core)
    if control is not None and kind_of(control.model.core) != kind:
        raise UserError(
            f"the control is an agent of core {control.config.core}, the agent one of {agent.config.core}: both must "
            "remember in the same way"
        )
    if kind == "other":
        return check_steps(agent, episodes, seed, control, limits, progress)
    if agent.model.actions.counts is not None:
        raise UserError(f"the recall check needs Discrete actions, those of {agent.config.env} are vectors")
    if kind == "slots":
        return check_addresses(agent, episodes, seed, control, limits, progress)
    progress("playing")
    played = play_planted(agent, episodes, seed)
    study = WriteStudy(agent, played, seed, limits, progress)
    checks = [
        *study.planted_checks(),
        *study.randomised_checks(),
        *study.deletion_checks(),
        *study.flip_checks(),
        study.channel_check(),
        study.residual_check(),
        study.control_check(control),
    ]
    return study.report(checks, "planted cue, R2", "R2 names the writes that the agent used")


class WriteStudy(Study):
    """The checks of what was written."""

    @property
    def _blind_limit(self) -> float:
        """The hit@1 above which a control finds the cue."""
        blind = max(r.hit_1.mean for r in self.rankings if r.name in BLIND_BASELINES)
        return blind + self.limits.above_baseline

    # --- which ranking finds the cue ---------------------------------------------------

    def planted_checks(self) -> list[Check]:
        """Hit rates of all scores and baselines; R2 and R4 are held against the threshold."""
        names = {"planted cue, R2": R2, "planted cue, R4": R4}
        if self.no_plan:
            return [not_applicable(name, self.no_plan) for name in names]
        self.progress("scores at the decision step")
        scores, seconds = scores_at_decision(self.planted, "written", self.agent.model)
        self.rankings = [judge(name, rows, self.planted, seconds[name]) for name, rows in scores.items()]
        baselines = baseline_scores(self.planted, self.seed)
        self.rankings += [judge(name, rows, self.planted) for name, rows in baselines.items()]
        if self.too_weak:
            return [not_applicable(name, self.too_weak) for name in names]
        found = {result.name: result for result in self.rankings}
        return [
            decide(
                name,
                found[score].hit_1.mean >= self.limits.hit_1,
                f"hit@1 {found[score].hit_1}, best baseline {max(found[b].hit_1.mean for b in baselines):.2f}",
                f"hit@1 >= {self.limits.hit_1}",
                hit_1=found[score].hit_1.mean,
            )
            for name, score in names.items()
        ]

    def randomised_checks(self) -> list[Check]:
        """An untrained agent and permuted writes must not find the cue.

        Where the cue is found by its place alone, what was written says nothing about it, and the reverse; the ranking
        comes from neither if it survives both permutations.
        """
        if self.no_plan:
            return [not_applicable(name, self.no_plan) for name in ("untrained agent", "permuted writes")]
        self.progress("randomised controls")
        limit, untrained = self._blind_limit, untrained_ranking(self.agent, self.planted)
        writes, addresses = permuted_rankings(self.planted, self.seed)
        self.rankings += [untrained, writes, addresses]
        least = min(writes.hit_1.mean, addresses.hit_1.mean)
        demanded = f"<= {limit:.2f} (best blind baseline + {self.limits.above_baseline})"
        figure = f"hit@1 of R2: what was written permuted {writes.hit_1}, where {addresses.hit_1}"
        return [
            decide("untrained agent", untrained.hit_1.mean <= limit, f"hit@1 of R2 {untrained.hit_1}", demanded,
                   hit_1=untrained.hit_1.mean),
            decide("permuted writes", least <= limit, figure, f"one of them {demanded}", hit_1=least),
        ]  # fmt: skip

    # --- deletion and insertion ----------------------------------------------------------

    def deletion_checks(self) -> list[Check]:
        """Joint deletion and insertion of the top writes by R2, open and closed loop."""
        names = ("deletion flips", "random deletion does not", "deletion beats random", "bottom least",
                 "keep only top", "deletion costs return")  # fmt: skip
        sets = self._sets()
        if not sets:
            reason = f"fewer than {2 * self.limits.top_k} earlier writes at the decision step"
            return [not_applicable(name, reason) for name in names]
        if self.visible:
            return [not_applicable(name, self.no_plan) for name in names]
        self.progress("deletion, open loop")
        pi = [open_loop(self.agent.model, e, chosen) for e, chosen in sets]
        changes, flips = _changes(pi, [e for e, _ in sets])
        self._note_deletion(changes, flips, [e for e, _ in sets])
        k = self.limits.top_k
        beats = bootstrap(np.abs(changes["delete top"]) - np.abs(changes["delete random"]))
        least = np.abs(changes["delete bottom"]).mean() <= np.abs(changes["delete random"]).mean()
        agrees = 1.0 - flips["keep top"]
        restores = bootstrap(np.abs(changes["keep random"]) - np.abs(changes["keep top"]))
        self.progress("deletion, closed loop")
        returns = self._returns(sets)
        costs = bootstrap(returns["delete random"] - returns["delete top"])
        return [
            decide(names[0], flips["delete top"].mean() >= self.limits.deletion_flips,
                   f"top {k} deleted: action changes in {bootstrap(flips['delete top'])}",
                   f">= {self.limits.deletion_flips}", flips=float(flips["delete top"].mean())),
            decide(names[1], flips["delete random"].mean() <= self.limits.random_flips,
                   f"{k} matched random writes deleted: {bootstrap(flips['delete random'])}",
                   f"<= {self.limits.random_flips}", flips=float(flips["delete random"].mean())),
            decide(names[2], beats.low > 0, f"change of action probability, top minus random: {beats}",
                   "interval above 0"),
            decide(names[3], bool(least),
                   f"bottom {np.abs(changes['delete bottom']).mean():.3f}, "
                   f"random {np.abs(changes['delete random']).mean():.3f}", "bottom <= random"),
            decide(names[4], agrees.mean() >= self.limits.keep_agrees and restores.low > 0,
                   f"action as before in {bootstrap(agrees)}; closer than random by {restores}",
                   f">= {self.limits.keep_agrees} and interval above 0"),
            decide(names[5], costs.low > 0,
                   f"return, random minus top deleted: {costs}", "interval above 0",
                   **{name: float(values.mean()) for name, values in returns.items()}),
        ]  # fmt: skip

    def _sets(self) -> list[tuple[PlayedEpisode, Sets]]:
        rng = np.random.default_rng(self.seed)
        pool = self.planted if self.needs_cue else self.played
        by = SCORES["removal"]
        found = [
            (e, choose_sets(e, by.at(Sources(e.tape), e.decision), self.limits.top_k, rng)) for e in pool
        ]
        return [(e, sets) for e, sets in found if sets is not None]

    def _note_deletion(
        self, changes: dict[str, Float], flips: dict[str, Float], episodes: list[PlayedEpisode]
    ) -> None:
        self.measures["mean change of the action's probability"] = {
            name: round(float(values.mean()), 3) for name, values in changes.items()
        }
        self.measures["share of changed actions"] = {
            name: round(float(values.mean()), 3) for name, values in flips.items()
        }
        cues = np.array([episode.cue for episode in episodes])
        self.measures["changed by deleting the top, by cue"] = {
            int(cue): round(float(flips["delete top"][cues == cue].mean()), 3) for cue in np.unique(cues)
        }

    def _returns(self, sets: list[tuple[PlayedEpisode, Sets]]) -> dict[str, Float]:
        env = make_env(self.agent)
        rows = []
        for episode, chosen in sets:
            state = state_before(self.agent.model, episode.tape, episode.decision)
            forms = variants(state, episode.tape, chosen)
            forms = {name: form for name, form in forms.items() if name.startswith(("intact", "delete"))}
            rows.append(closed_loop(self.agent.model, env, episode, forms))
        env.close()
        found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        self.measures["mean return"] = {name: round(float(x.mean()), 3) for name, x in found.items()}
        return found

    # --- the other cue, the channel, the residual, the control ---------------------------

    def flip_checks(self) -> list[Check]:
        """The same episodes with the other cue."""
        names = ("cue flip changes the action", "cue recalled in both", "read switched off")
        pairs, none = self.flipped(names)
        if none:
            return none
        clean, flipped = [a for a, _ in pairs], [b for _, b in pairs]
        result: FlipResult = flip_result(self.agent.model, clean, flipped)
        restored = result.restored[~np.isnan(result.restored)]
        if len(restored):
            self.measures["logit difference restored by the recalled write of the other run, median"] = round(
                float(np.median(restored)), 3
            )
        flips, both = bootstrap(result.action_flips), bootstrap(result.recalled_in_both)
        return [
            decide(names[0], flips.mean >= self.limits.cue_flips, f"in {flips} of {len(pairs)} pairs",
                   f">= {self.limits.cue_flips}"),
            decide(names[1], both.mean >= self.limits.recalled_in_both, f"cue's step first in both: {both}",
                   f">= {self.limits.recalled_in_both}"),
            self._read_off_check(names[2], clean, flipped),
        ]  # fmt: skip

    def _read_off_check(
        self, name: str, clean: Sequence[PlayedEpisode], flipped: Sequence[PlayedEpisode]
    ) -> Check:
        """An agent that receives v_r := 0 must neither know the cue nor have a write that matters."""
        self.progress("read switched off")
        result = read_off_result(self.agent.model, clean, flipped)
        self.rankings += [result.removal, result.decision]
        flips, hit, limit = bootstrap(result.action_flips), result.decision.hit_1.mean, self._blind_limit
        return decide(
            name,
            flips.mean <= self.limits.read_off_flips and hit <= limit,
            f"the other cue still changes the action in {flips}; hit@1 of R4 {hit:.2f}",
            f"<= {self.limits.read_off_flips}; <= {limit:.2f} (best blind baseline + {self.limits.above_baseline})",
            flips=flips.mean,
            hit_1=hit,
        )

    def channel_check(self) -> Check:
        """Memory or controller: what carries what the decision needs?"""
        name = "memory carries the decision"
        if self.visible:
            return not_applicable(name, self.no_plan)
        pool = self.planted if self.needs_cue else self.played
        if not pool:
            return not_applicable(name, self.no_plan)
        self.progress("wiping")
        model = self.agent.model
        pi = [answers(model, e, variants(state_before(model, e.tape, e.decision), e.tape, {})) for e in pool]
        _, flips = _changes(pi, pool)
        shares = {form: float(values.mean()) for form, values in flips.items()}
        memory, controller = shares["wipe memory"], shares["wipe controller"]
        if memory >= self.limits.wiped_flips:
            who = "the memory carries it" + (", the controller too" if controller >= 0.5 * memory else "")
        elif controller >= self.limits.wiped_flips:
            who = "the CONTROLLER carries it: the recalls are decoration"
        else:
            who = "neither alone changes the action"
        self.measures["share of actions changed by wiping before the decision"] = {
            form: round(share, 3) for form, share in shares.items()
        }
        return decide(
            name,
            memory >= self.limits.wiped_flips,
            f"memory wiped: {memory:.2f} changed, controller wiped: {controller:.2f}; {who}",
            f"memory >= {self.limits.wiped_flips}",
            **shares,
        )

    def residual_check(self) -> Check:
        """Do single removals add up at the decision step?"""
        name = "interaction residual"
        pool = self.planted if self.needs_cue and not self.visible and self.planted else self.played
        rows = []
        for episode in pool:
            removal = leave_one_write_out(episode.tape, episode.decision)
            kept = keep_only_one(episode.tape, episode.decision)
            rows.append(
                (
                    interaction_residual(removal),
                    symmetrised_residual(removal, kept),
                    use_share(removal.value_read, removal.value_unwritten),
                )
            )
        rho, rho_sym, share = (float(np.median(column)) for column in zip(*rows, strict=True))
        grey = float(np.mean([row[0] > self.limits.residual for row in rows]))
        self.measures["median use share at the decision"] = round(share, 3)
        return decide(
            name,
            rho <= self.limits.residual,
            f"median rho {rho:.2f} (above the threshold in {grey:.2f} of the episodes), symmetrised {rho_sym:.2f}",
            f"median rho <= {self.limits.residual}",
            rho=rho,
            rho_symmetrised=rho_sym,
            share_above=grey,
        )

    def control_check(self, control: LoadedAgent | None) -> Check:
        """On a fully observed task the panel must say "memory not used"."""
        name = "memory not used where all is visible"
        if self.visible:
            agent, played = self.agent, self.played
        elif control is not None:
            self.progress("fully observed control")
            agent, played = control, play_planted(control, len(self.played), self.seed)
        else:
            return not_applicable(name, "no control agent was given (trained with always_visible)")
        share = not_used_share(agent.model, played, self.limits.not_used_probability, self.limits.use_share)
        # The read also returns what this very step wrote; what OLDER writes do is asked by wiping those alone.
        pi = [
            answers(agent.model, e, variants(state_before(agent.model, e.tape, e.decision), e.tape, {}))
            for e in played
        ]
        moved = np.array([float(p["intact"].change(p["wipe memory"])) for p in pi])
        older = float((moved <= self.limits.not_used_probability).mean())
        return decide(
            name,
            share >= self.limits.not_used,
            f"at the decision in {share:.2f} of {len(played)} episodes; by older writes alone in {older:.2f}",
            f">= {self.limits.not_used}",
            share=share,
            share_without_older_writes=older,
        )


def _changes(
    policies: Sequence[dict[str, ActionDistribution]], episodes: Sequence[PlayedEpisode]
) -> tuple[dict[str, Float], dict[str, Float]]:
    """Per form: change of the taken action's probability [E], and 1.0 where the greedy action changed [E]."""
    changes, flips = {}, {}
    taken = [torch.as_tensor(e.tape.action[e.decision]) for e in episodes]
    for form in [name for name in policies[0] if name != "intact"]:
        pairs = [(p["intact"], p[form], a) for p, a in zip(policies, taken, strict=True)]
        changes[form] = np.array(
            [float(after.probability(a) - was.probability(a)) for was, after, a in pairs]
        )
        flips[form] = np.array([float(acts_otherwise(was, after)) for was, after, _ in pairs])
    return changes, flips
