"""Controls of the recall report: agents and memories for which a score must NOT find the cue, and flipped cues.

Each returns plain numbers; `recall/validate/validity.py` holds them against thresholds that were fixed before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.evaluation import LoadedAgent
from agents.model import ActorCritic, AgentState, build_model
from recall.record.recorder import recorded_row, retape
from recall.record.tape import Tape
from recall.scores.decision import decision_effect, policy_effect, state_before
from recall.scores.from_tape import leave_one_write_out, rank, use_share
from recall.scores.intervene import add_to_memory, without_read
from recall.validate.deletion import increments
from recall.validate.planted import PlayedEpisode, make_env
from recall.validate.ranking import RankingResult, judge

Float = NDArray[np.float64]


def removal_scores(tape: Tape, t: int) -> Float:
    """R2 of the writes s < t, [t]."""
    return leave_one_write_out(tape, t).norms[:t]


def untrained_model(agent: LoadedAgent) -> ActorCritic:
    """The agent's architecture with fresh weights."""
    env = make_env(agent)
    model = build_model(agent.config, env.observation_space, env.agent_action_space)
    env.close()
    device = agent.model.policy_head.weight.device
    return model.to(device, agent.model.policy_head.weight.dtype).eval()


def untrained_ranking(agent: LoadedAgent, episodes: Sequence[PlayedEpisode]) -> RankingResult:
    """R2 of an untrained agent that sees the same episodes."""
    model = untrained_model(agent)
    scores = [removal_scores(retape(model, e.tape), e.decision) for e in episodes]
    return judge("R2, untrained agent", scores, episodes)


WHAT = "write_steps"
WHERE = "write_inputs"


def permuted(tape: Tape, t: int, part: str, rng: np.random.Generator) -> Tape:
    """The tape with one part of the writes s < t dealt out anew over s: what was written (the steps U_s) or where it
    was written (the inputs Z_s). Everything else stays."""
    memory = tape.written()
    order = np.arange(tape.steps)
    order[:t] = rng.permutation(t)
    dealt: dict[str, Any] = {part: tuple(array[order] for array in getattr(memory, part))}
    return replace(tape, memory=replace(memory, **dealt))


def permuted_rankings(episodes: Sequence[PlayedEpisode], seed: int = 0) -> list[RankingResult]:
    """R2 where what was written, and where the places that it was written to, are permuted over the steps."""
    found = []
    for name, part in (("writes", WHAT), ("addresses", WHERE)):
        rng = np.random.default_rng(seed)
        scores = [removal_scores(permuted(e.tape, e.decision, part, rng), e.decision) for e in episodes]
        found.append(judge(f"R2, permuted {name}", scores, episodes))
    return found


@dataclass(frozen=True)
class FlipResult:
    """The same episodes with the other cue."""

    action_flips: Float
    """[E] 1.0 where the action at the decision step differs between the runs."""
    recalled_in_both: Float
    """[E] 1.0 where the cue's step is ranked first in both runs."""
    restored: Float
    """[E] restored logit difference after putting the recalled write of the clean run into the flipped one."""


def flip_result(
    model: ActorCritic, clean: Sequence[PlayedEpisode], flipped: Sequence[PlayedEpisode]
) -> FlipResult:
    """Compare every episode with its flipped twin; both must be planted."""
    rows = [_flip(model, a, b) for a, b in zip(clean, flipped, strict=True)]
    flips, both, restored = (np.array(column) for column in zip(*rows, strict=True))
    return FlipResult(flips, both, restored)


@torch.no_grad()
def _flip(model: ActorCritic, clean: PlayedEpisode, flipped: PlayedEpisode) -> tuple[float, float, float]:
    top_clean = rank(removal_scores(clean.tape, clean.decision), clean.decision, 1)[0]
    top_flipped = rank(removal_scores(flipped.tape, flipped.decision), flipped.decision, 1)[0]
    action_clean = int(clean.tape.action[clean.decision])
    action_flipped = int(flipped.tape.action[flipped.decision])
    both = top_clean == clean.cue_step and top_flipped == flipped.cue_step

    # (ld_patched - ld_flipped) / (ld_clean - ld_flipped) with ld the clean action's logit minus the other's.
    state = state_before(model, flipped.tape, flipped.decision)
    out_of = increments(flipped.tape, [top_flipped])
    into = increments(clean.tape, [top_clean])
    a, b, c = (x - y for x, y in zip(out_of, into, strict=True))
    patched_state = add_to_memory(state, (a, b, c))
    row = recorded_row(model, flipped.tape, flipped.decision, 1)
    patched = model.act(row.obs, row.is_first, AgentState(patched_state.core, row.action, row.reward)).logits[
        0
    ]

    def difference(logits: Float) -> float:
        return float(logits[action_clean] - logits[action_flipped])

    ld_clean = difference(clean.tape.logits[clean.decision])
    ld_flipped = difference(flipped.tape.logits[flipped.decision])
    ld_patched = difference(patched.double().cpu().numpy())
    span = ld_clean - ld_flipped
    restored = (ld_patched - ld_flipped) / span if span != 0 else np.nan
    return float(action_clean != action_flipped), float(both), restored


@dataclass(frozen=True)
class ReadOffResult:
    """An agent that receives v_r := 0 sees the recorded episodes."""

    action_flips: Float
    """[E] 1.0 where its greedy action at the decision step still depends on the cue."""
    removal: RankingResult
    """R2 of its memory: what it would read if it listened."""
    decision: RankingResult
    """R4: no write can matter to an agent that hears none."""


def read_off_result(
    model: ActorCritic, clean: Sequence[PlayedEpisode], flipped: Sequence[PlayedEpisode]
) -> ReadOffResult:
    """The agent without its read on episodes and their twins with the other cue; all must be planted."""
    deaf = without_read(model)
    tapes = [retape(deaf, episode.tape) for episode in clean]
    twins = [retape(deaf, episode.tape) for episode in flipped]
    actions = [tape.policy.mode()[e.decision] for tape, e in zip(tapes, clean, strict=True)]
    others = [tape.policy.mode()[e.decision] for tape, e in zip(twins, flipped, strict=True)]
    removal = [removal_scores(tape, e.decision) for tape, e in zip(tapes, clean, strict=True)]
    decision = [decision_effect(deaf, e.tape, e.decision).divergence[e.decision, : e.decision] for e in clean]
    return ReadOffResult(
        np.array([float(not torch.equal(a, b)) for a, b in zip(actions, others, strict=True)]),
        judge("R2, read off", removal, clean),
        judge("R4, read off", decision, clean),
    )


def not_used_share(
    model: ActorCritic, episodes: Sequence[PlayedEpisode], probability: float, share: float
) -> float:
    """Share of the episodes in which the panel says "memory not used" at the decision: v_r := v_0 moves no
    action's probability by more than `probability`, or the use share is below `share`."""
    says: list[bool] = []
    for episode in episodes:
        t = episode.decision
        removal = leave_one_write_out(episode.tape, t)
        used = use_share(removal.value_read, removal.value_unwritten)
        says.append(used < share or policy_effect(model, episode.tape, t)[t] <= probability)
    return float(np.mean(says))
