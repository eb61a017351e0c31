"""Deletion and insertion: what the agent does when writes are taken out of its memory, or when they alone stay.

The memory that enters the decision step is edited, and the step is then played by the agent itself:

    delete S:   W := W_{t-1} + sum over s in S of U_s^T Z_s      (all layers)
    keep S:     W := W_0     - sum over s in S of U_s^T Z_s
    wipe:       W := W_0, or the controller's own state := 0

Open loop: the change of the probability of the action that was taken, and whether the greedy action changes.
Closed loop: the environment is brought to the same step by the recorded actions, and the episode is played to
its end with the edited memory. Random sets are matched to the top set in the size of the writes and in their
age, and never overlap with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from agents.distributions import ActionDistribution
from agents.model import AgentState
from agents.play import Actor, Env, Moment, Observer, Opening, play
from recall.record.recorder import recorded_row
from recall.record.tape import Tape
from recall.scores.decision import state_before
from recall.scores.from_tape import rank
from recall.scores.intervene import (
    add_to_memory,
    repeat_state,
    wipe_controller,
    wipe_memory,
    wipe_value_read,
)
from recall.validate.planted import PlayedEpisode
from recall.validate.ranking import write_sizes

Float = NDArray[np.float64]
Sets = dict[str, list[int]]


def choose_sets(episode: PlayedEpisode, scores: Float, top_k: int, rng: np.random.Generator) -> Sets | None:
    """Top, bottom and matched random writes of an episode; None if there are fewer than 2 top_k candidates."""
    t = episode.decision
    if t < 2 * top_k:
        return None
    order = rank(scores, t, t)
    top, rest = order[:top_k], order[top_k:]
    return {"top": top, "random": _matched(episode.tape, t, top, rest, rng), "bottom": order[-top_k:]}


def _matched(tape: Tape, t: int, top: list[int], rest: list[int], rng: np.random.Generator) -> list[int]:
    """For each write of `top`, in random order, the unused write of `rest` nearest in log size and age.

    Both are measured in standard deviations over the candidates; one of the two nearest is drawn.
    """
    size = np.log(write_sizes(tape, t) + 1e-12)
    features = np.stack([_standard(size), _standard(np.arange(t, dtype=np.float64))], axis=1)
    free, chosen = list(rest), []
    for s in rng.permutation(top):
        distance = np.linalg.norm(features[free] - features[s], axis=1)
        nearest = np.argsort(distance, kind="stable")[: 2 if len(free) > 1 else 1]
        chosen.append(free.pop(int(rng.choice(nearest))))
    return chosen


def _standard(x: Float) -> Float:
    deviation = x.std()
    return (x - x.mean()) / deviation if deviation > 0 else np.zeros_like(x)


def increments(tape: Tape, writes: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """sum over s of U_s^T Z_s for every layer, each [1, d_l, d_{l-1}]: what taking the writes out adds to W."""
    memory = tape.written()
    chosen = list(writes)
    parts = [
        torch.from_numpy(np.einsum("swo,swi->oi", u[chosen], z[chosen]))[None]
        for u, z in zip(memory.write_steps, memory.write_inputs, strict=True)
    ]
    return parts[0], parts[1], parts[2]


def edited(
    state: AgentState, tape: Tape, delete: Sequence[int] = (), keep: Sequence[int] | None = None
) -> AgentState:
    """The state with writes deleted, or with the writes `keep` alone."""
    if keep is not None:
        a, b, c = increments(tape, keep)
        return add_to_memory(wipe_memory(state), (-a, -b, -c))
    return add_to_memory(state, increments(tape, delete)) if len(delete) else state


def variants(state: AgentState, tape: Tape, sets: Mapping[str, Sequence[int]]) -> dict[str, AgentState]:
    """The state entering the decision step, untouched and in every edited form."""
    forms = {"intact": state}
    for name, writes in sets.items():
        forms[f"delete {name}"] = edited(state, tape, delete=writes)
        forms[f"keep {name}"] = edited(state, tape, keep=writes)
    forms["wipe memory"] = wipe_memory(state)
    forms["wipe controller"] = wipe_controller(state)
    forms["wipe value read"] = wipe_value_read(state)
    forms["wipe all"] = wipe_memory(wipe_controller(state))
    return forms


@torch.no_grad()
def answers(
    model: Actor, episode: PlayedEpisode, forms: Mapping[str, AgentState]
) -> dict[str, ActionDistribution]:
    """The policy of every form at the decision step, in float64."""
    states = list(forms.values())
    core = type(states[0].core)(*(torch.cat(parts) for parts in zip(*(s.core for s in states), strict=True)))
    row = recorded_row(model, episode.tape, episode.decision, len(states))
    out = model.act(row.obs, row.is_first, AgentState(core, row.action, row.reward))
    rows = out.policy.double().parameters
    return {name: model.actions.distribution(row) for name, row in zip(forms, rows, strict=True)}


def acts_otherwise(policy: ActionDistribution, other: ActionDistribution) -> bool:
    """Whether the greedy actions of two policies differ."""
    return bool((policy.mode() != other.mode()).any())


def open_loop(
    model: Actor, episode: PlayedEpisode, sets: Mapping[str, Sequence[int]]
) -> dict[str, ActionDistribution]:
    """The policies at the decision step, untouched and after every edit."""
    return answers(
        model, episode, variants(state_before(model, episode.tape, episode.decision), episode.tape, sets)
    )


class _Return(Observer):
    """The return from the first observed step on; where the environment names needed steps, until others are needed.

    A write that is deleted there may be needed for another thing later, whichever it is: in the maze of doors five
    writes cost the same in later rounds. What the ones that are needed now are worth shows before that.
    """

    def __init__(self, episode: PlayedEpisode) -> None:
        self.total, self.over = 0.0, False
        self.needed = set(episode.needed) if episode.repeats and episode.planted else set[int]()

    def after(self, moment: Moment) -> None:
        if not self.over:
            self.total += moment.reward
        self.over |= not self.needed <= {int(step) for step in moment.info.get("needed_steps", ())}


def closed_loop(
    model: Actor, env: Env, episode: PlayedEpisode, forms: Mapping[str, AgentState]
) -> dict[str, float]:
    """The return of the episode if it goes on from the decision step with each of the given states.

    Where the environment names needed steps it is what is earned from the decision on until others are needed.
    """
    return {name: _go_on(model, env, episode, state) for name, state in forms.items()}


def _go_on(model: Actor, env: Env, episode: PlayedEpisode, state: AgentState) -> float:
    tape, rest = episode.tape, _Return(episode)
    lived = tape.action[: episode.decision]
    wire = model.actions.to_env(torch.from_numpy(lived))
    play(model, [env], [Opening(episode.seed, actions=wire, state=repeat_state(state, 1))], "greedy", rest)
    before = 0.0 if episode.repeats else float(tape.reward[: episode.decision].sum(dtype=np.float64))
    return before + rest.total
