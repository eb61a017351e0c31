"""The validity report of a hard memory: do the slots that were read carry what the agent decides?

Which slot was read is exact and needs no check. What remains to be shown by experiment is what it means: that
the slot of the planted cue is the one that is read when it is needed, with either cue, and that the decision
hangs on it. A slot is dropped by making its address impossible in that one step; the head then reads another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from agents.distributions import ActionDistribution
from agents.evaluation import LoadedAgent
from agents.model import ActorCritic
from recall.record.recorder import recorded_row
from recall.scores.decision import SURELY, policy_effect, state_before
from recall.scores.registry import SCORES
from recall.validate.checks import Check, Limits, ValidityReport, decide, not_applicable
from recall.validate.deletion import acts_otherwise
from recall.validate.planted import PlayedEpisode, play_planted
from recall.validate.ranking import blind_scores, bootstrap, judge, scores_at_decision
from recall.validate.study import Study

Float = NDArray[np.float64]
PLANTED = "planted cue, address"


def check_addresses(
    agent: LoadedAgent,
    episodes: int,
    seed: int,
    control: LoadedAgent | None,
    limits: Limits,
    progress: Callable[[str], None],
) -> ValidityReport:
    """Play `episodes` held-out episodes greedily and make every check that the environment allows."""
    progress("playing")
    study = Study(agent, play_planted(agent, episodes, seed), seed, limits, progress)
    checks = [
        _planted(study),
        *_dropping(study),
        *_flip(study),
        _control(agent if study.visible else control, study.played if study.visible else None, study),
    ]
    return study.report(checks, PLANTED, "the slot that is read is the one that the agent needs")


def _planted(study: Study) -> Check:
    """The slot of the cue must be the one that is read."""
    if study.no_plan:
        return not_applicable(PLANTED, study.no_plan)
    scores, seconds = scores_at_decision(study.planted, "slots", study.agent.model)
    found = [judge(name, rows, study.planted, seconds[name]) for name, rows in scores.items()]
    blind = [
        judge(name, rows, study.planted) for name, rows in blind_scores(study.planted, study.seed).items()
    ]
    study.rankings = [*found, *blind]
    if study.too_weak:
        return not_applicable(PLANTED, study.too_weak)
    hits = next(row.hit_1 for row in found if row.name == SCORES["address"].title)
    best = max(row.hit_1.mean for row in blind)
    return decide(PLANTED, hits.mean >= study.limits.hit_1, f"hit@1 {hits}, best baseline {best:.2f}",
                  f"hit@1 >= {study.limits.hit_1}", hit_1=hits.mean)  # fmt: skip


@torch.no_grad()
def policy_without(model: ActorCritic, episode: PlayedEpisode, dropped: Sequence[int]) -> ActionDistribution:
    """The policy at the decision step if the slots that the steps `dropped` wrote cannot be read."""
    tape, t = episode.tape, episode.decision
    assert tape.addresses is not None
    gone = torch.from_numpy(np.isin(tape.addresses.tags[t], list(dropped)))
    weight = model.policy_head.weight
    noise = torch.zeros(1, *tape.addresses.noise.shape[1:], dtype=weight.dtype)
    noise[..., :-1][..., gone] = -SURELY
    row = recorded_row(model, tape, t, 1)
    out = model.act(row.obs, row.is_first, state_before(model, tape, t), noise=noise.to(weight.device))
    return out.policy


def _dropping(study: Study) -> list[Check]:
    """The decision must hang on the slot that is read, and on no other."""
    names = ("the slot read carries the decision", "an unread slot does not")
    if study.no_plan:
        return [not_applicable(name, study.no_plan) for name in names]
    model, limits = study.agent.model, study.limits
    rng, flips = np.random.default_rng(study.seed), []
    for episode in study.planted:
        tape, t = episode.tape, episode.decision
        assert tape.addresses is not None
        intact = policy_without(model, episode, ())
        read = [s for s in np.unique(tape.addresses.read_step[t]).tolist() if s >= 0]
        unread = [s for s in tape.addresses.tags[t].tolist() if s >= 0 and s not in read]
        other = rng.permutation(unread)[: len(read)].tolist()
        flips.append([acts_otherwise(intact, policy_without(model, episode, gone)) for gone in (read, other)])
    top, rest = (bootstrap(column) for column in np.array(flips, np.float64).T)
    return [
        decide(names[0], top.mean >= limits.wiped_flips, f"action changes in {top}",
               f">= {limits.wiped_flips}", flips=top.mean),
        decide(names[1], rest.mean == 0.0, f"action changes in {rest}", "0", flips=rest.mean),
    ]  # fmt: skip


def _flip(study: Study) -> list[Check]:
    """The same episodes with the other cue."""
    names, limits = ("cue flip changes the action", "cue read in both"), study.limits
    pairs, none = study.flipped(names)
    if none:
        return none
    flips = bootstrap([float(_action(a) != _action(b)) for a, b in pairs])
    both = bootstrap([float(_reads_cue(a) and _reads_cue(b)) for a, b in pairs])
    return [
        decide(names[0], flips.mean >= limits.cue_flips, f"in {flips} of {len(pairs)} pairs",
               f">= {limits.cue_flips}"),
        decide(names[1], both.mean >= limits.recalled_in_both, f"cue's slot read in both: {both}",
               f">= {limits.recalled_in_both}"),
    ]  # fmt: skip


def _action(episode: PlayedEpisode) -> int:
    return int(episode.tape.action[episode.decision])


def _reads_cue(episode: PlayedEpisode) -> bool:
    assert episode.tape.addresses is not None
    return bool(np.isin(episode.tape.addresses.read_step[episode.decision], episode.needed).any())


def _control(control: LoadedAgent | None, played: Sequence[PlayedEpisode] | None, study: Study) -> Check:
    """On a fully observed task nothing that is read may matter."""
    name = "memory not used where all is visible"
    if control is None:
        return not_applicable(name, "no control agent was given (trained with always_visible)")
    played = played or play_planted(control, len(study.played), study.seed)
    effects = np.array([policy_effect(control.model, e.tape)[e.decision] for e in played])
    share = float((effects <= study.limits.not_used_probability).mean())
    return decide(name, share >= study.limits.not_used, f"at the decision in {share:.2f} of {len(played)} episodes",
                  f">= {study.limits.not_used}", share=share)  # fmt: skip
