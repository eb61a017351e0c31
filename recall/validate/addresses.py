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
from recall.validate.checks import Check, Limits, ValidityReport, decide, not_applicable, verdict_of
from recall.validate.deletion import acts_otherwise
from recall.validate.planted import PlayedEpisode, about, make_env, play_planted
from recall.validate.ranking import RankingResult, blind_scores, bootstrap, judge, scores_at_decision

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
    played = play_planted(agent, episodes, seed)
    planted = [episode for episode in played if episode.planted]
    success = float(np.mean([episode.success for episode in played]))
    env = make_env(agent)
    visible = bool(getattr(env.unwrapped, "always_visible", False))
    env.close()
    reason = ""
    if visible:
        reason = "the cue is visible at the decision: nothing has to be remembered"
    elif not planted:
        reason = f"{agent.config.env} does not say which step is needed, or the agent never came to use it"
    rankings: list[RankingResult] = []
    if not reason:
        scores, seconds = scores_at_decision(planted, "slots", agent.model)
        rankings = [judge(name, rows, planted, seconds[name]) for name, rows in scores.items()]
        blind = [judge(name, rows, planted) for name, rows in blind_scores(planted, seed).items()]
        rankings += blind
    hits = next((row.hit_1 for row in rankings if row.name == SCORES["address"].title), None)
    too_weak = f"the agent succeeds in {success:.2f} of the episodes, {limits.success} are needed"
    checks = [
        not_applicable(PLANTED, reason or too_weak)
        if hits is None or success < limits.success
        else decide(PLANTED, hits.mean >= limits.hit_1, f"hit@1 {hits}, best baseline "
                    f"{max(row.hit_1.mean for row in blind):.2f}",
                    f"hit@1 >= {limits.hit_1}", hit_1=hits.mean),
        *_dropping(agent.model, planted, limits, reason, seed),
    ]  # fmt: skip
    progress("flipped cues")
    checks += _flip(agent, played, seed, limits, reason)
    checks.append(
        _control(agent if visible else control, played if visible else None, episodes, seed, limits)
    )
    return ValidityReport(
        agent=about(agent, episodes, seed, success, len(planted)),
        limits=limits,
        rankings=rankings,
        checks=checks,
        verdict=verdict_of(checks, PLANTED, "the slot that is read is the one that the agent needs"),
        measures={},
    )


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


def _dropping(
    model: ActorCritic, planted: Sequence[PlayedEpisode], limits: Limits, reason: str, seed: int
) -> list[Check]:
    names = ("the slot read carries the decision", "an unread slot does not")
    if reason:
        return [not_applicable(name, reason) for name in names]
    rng, flips = np.random.default_rng(seed), []
    for episode in planted:
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


def _flip(
    agent: LoadedAgent, played: Sequence[PlayedEpisode], seed: int, limits: Limits, reason: str
) -> list[Check]:
    names = ("cue flip changes the action", "cue read in both")
    twins = [] if reason else play_planted(agent, len(played), seed, flip=True)
    pairs = [
        (a, b) for a, b in zip(played, twins, strict=False) if a.planted and b.planted and a.cue != b.cue
    ]
    if not pairs:
        reason = reason or f"{agent.config.env} does not take reset(options={{'flip_cue': True}})"
        return [not_applicable(name, reason) for name in names]
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


def _control(
    control: LoadedAgent | None,
    played: Sequence[PlayedEpisode] | None,
    episodes: int,
    seed: int,
    limits: Limits,
) -> Check:
    """On a fully observed task nothing that is read may matter."""
    name = "memory not used where all is visible"
    if control is None:
        return not_applicable(name, "no control agent was given (trained with always_visible)")
    played = played or play_planted(control, episodes, seed)
    effects = np.array([policy_effect(control.model, e.tape)[e.decision] for e in played])
    share = float((effects <= limits.not_used_probability).mean())
    return decide(name, share >= limits.not_used, f"at the decision in {share:.2f} of {len(played)} episodes",
                  f">= {limits.not_used}", share=share)  # fmt: skip
