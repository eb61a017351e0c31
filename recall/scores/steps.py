"""R5: what if step s had not been taken in? For every core, by replaying the agent without that step.

For every step s a copy of the agent lives through the recorded episode again. The state that leaves step s is the
state that entered it; everything later is the agent's own, on the recorded observations, previous actions and
previous rewards (teacher-forced):

    h_t = f(h_{t-1}, x_t),  t != s        h_s = h_{s-1}        R5_s(t) = KL( pi_t || pi_t^{-s} ),  s < t

The variant with a `reference` takes step s in, but with another observation: x_s := (reference, a_{s-1}, r_{s-1}).
An agent without step s has also lived a step less, and one that counts its steps acts by that; with the observation
held, it has lived as long, and where nothing new came into view the score is exactly 0.

It asks for the whole step, whatever carried it: a recurrent state, a written memory, slots. So it applies to every
agent that has `act` and a state, and beside R4 (the write alone) it says which of the two remembers. A core with
chance draws the same numbers again. The copies advance as one batch, in blocks whose states fit into the cache; a
copy whose state equals that of the run, bit for bit, is the run from then on and is dropped with a score of exactly 0.
Cost: about T^2 / 2 steps of the agent.

Legend: T steps, R rows (row 0 is the run, the others part from it), P parameters of the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.distributions import ActionDistribution
from agents.model import ActorCritic, ActOutput, AgentState
from agents.play import Actor
from envs.errors import UserError
from memory import MNMCore, select_state
from recall.record.recorder import Row, recorded_row
from recall.record.tape import Tape
from recall.scores.decision import Branches, change_between, from_first, opening
from recall.scores.intervene import write_memory_of
from recall.scores.reapplied import memories_in_cache

Float = NDArray[np.float64]
Reference = Literal["held", "blank"] | int | None
"""What is seen in step s instead: held, what was seen in the step before once more (in the first one what comes next);
blank, nothing but zeros; the observation of the step with this number. None: s is not taken in."""
Progress = Callable[[int, int], None]
"""Called as progress(steps done, steps in all)."""
MOST_ROWS = 1024
"""Copies in one batch."""


class StepEffect(NamedTuple):
    """R5 of every pair of steps of an episode."""

    divergence: Float
    """[T, T] KL(pi_t || pi_t^{-s}) in nats for s < t; on the diagonal 0, or with a reference its effect at once."""
    value_change: Float
    """[T, T] |V_t - V_t^{-s}|."""


@torch.no_grad()
def step_effect(
    model: Actor,
    tape: Tape,
    last: int | None = None,
    reference: Reference = None,
    progress: Progress = lambda done, total: None,
    window: int | None = None,
) -> StepEffect:
    """R5 of steps 0..last (default: all) of an episode that started at its first step.

    With a `window` W only the pairs s >= t - W are replayed, all others stay 0: T W steps in place of T^2 / 2.
    """
    if tape.start_step:
        raise UserError("step removal needs a tape that starts with its episode")
    steps = tape.steps if last is None else last + 1
    found = StepEffect(np.zeros((steps, steps)), np.zeros((steps, steps)))
    kind, start = _start(model)
    count = block_size(model.initial_state(1).core)
    reach = steps if window is None else window
    ends = {first: min(steps, first + count + reach) for first in range(0, steps, count)}
    total, done = sum(end - first for first, end in ends.items()), 0
    for first, end in ends.items():
        block = _Block(model, tape, kind, start, min(count, steps - first), reference, found)
        for t in range(first, end):
            block.step(t, parts=t < first + count)
            block.leave_out([s for s in block.removed if s <= t - reach])
            if t + 1 == first + count:
                start = block.copies.run()
            if t + 1 >= first + count and not block.removed:
                break
            done += 1
            progress(done, total)
    progress(total, total)
    return found


def block_size(core: Any) -> int:
    """How many copies of a state [1, ...] are worth replaying together."""
    size = sum(part.nbytes for part in core)
    if size == 0 or core[0].is_cuda:
        return MOST_ROWS
    return min(MOST_ROWS, memories_in_cache(size))


class _Copies:
    """The run, row 0, and its copies: what each carries from a step to the next."""

    def __init__(self, model: Actor, tape: Tape, start: Sequence[Tensor], count: int) -> None:
        """The run stands at `start`, one row each; at most `count` copies will part from it."""
        self.model, self.tape = model, tape
        self.core: Any = start

    def step(self, t: int, row: Row) -> tuple[Tensor, Tensor]:
        """All take in step t; parameters of the policy and values, a row each."""
        out = act_again(self.model, self.tape, t, row, self.core, self.rows)
        self.core = out.state.core
        return out.policy.parameters, out.value

    @property
    def rows(self) -> int:
        """How many there are; a state without parts holds no copies, since all are the run."""
        return len(self.core[0]) if len(self.core) else 1

    def carried(self) -> Sequence[Tensor]:
        """Everything that is carried, [R, ...] each."""
        found: Sequence[Tensor] = self.core
        return found

    def run(self) -> Sequence[Tensor]:
        """Where the run stands now."""
        found: Sequence[Tensor] = select_state(
            self.core, torch.zeros(1, dtype=torch.int64, device=self.model.device)
        )
        return found

    def add(self, stands: Sequence[Tensor]) -> None:
        """One more copy, which goes on from where `stands` says."""
        self.core = type(self.core)(*(torch.cat(pair) for pair in zip(self.core, stands, strict=True)))

    def keep(self, rows: list[int]) -> None:
        """Forget all other rows."""
        self.core = select_state(self.core, torch.tensor(rows, device=self.model.device))


class _Memories(_Copies):
    """The same for a core with a written memory, in place: a step copies none of the memories."""

    def __init__(self, model: ActorCritic, tape: Tape, start: Sequence[Tensor], count: int) -> None:
        self.model, self.tape = model, tape
        self.branches = Branches(write_memory_of(model), start, count)

    def step(self, t: int, row: Row) -> tuple[Tensor, Tensor]:
        x_t = self.model.encoder(row.obs, row.is_first, row.action, row.reward)
        core = self.branches.core
        answers = core.output(core.seen(self.branches.step(x_t, part=False)))
        policy, value = self.model.heads(answers, row.obs)
        return policy.parameters, value

    @property
    def rows(self) -> int:
        return self.branches.rows

    def carried(self) -> Sequence[Tensor]:
        return [buffer[: self.rows] for buffer in self.branches.parts]

    def run(self) -> Sequence[Tensor]:
        return self.branches.run()

    def add(self, stands: Sequence[Tensor]) -> None:
        self.branches.add(stands)

    def keep(self, rows: list[int]) -> None:
        self.branches.keep(rows)


def _start(model: Actor) -> tuple[type[_Copies], Sequence[Tensor]]:
    """How copies of an agent are kept, and where a run stands before its first step."""
    if isinstance(model, ActorCritic) and isinstance(model.core, MNMCore):
        return _Memories, opening(model.core)
    return _Copies, model.initial_state(1).core


class _Block:
    """The run, and the copies without a step that have parted from it so far."""

    def __init__(
        self,
        model: Actor,
        tape: Tape,
        kind: type[_Copies],
        start: Sequence[Tensor],
        count: int,
        reference: Reference,
        found: StepEffect,
    ) -> None:
        self.model, self.tape, self.kind, self.reference, self.found = model, tape, kind, reference, found
        self.copies = kind(model, tape, start, count)
        self.removed: list[int] = []
        """The step that row 1, 2, ... did not take in."""

    def step(self, t: int, parts: bool) -> None:
        """Advance all rows by step t; then one more row parts, without step t."""
        row = recorded_row(self.model, self.tape, t, 1)
        before = self.copies.run() if parts else None
        parameters, value = self.copies.step(t, row)
        self._note(t, self.removed, parameters, value)
        if before is not None:
            if self.reference is not None:
                before = self._otherwise(t, row, before, parameters[:1], value[:1])
            self.copies.add(before)
            self.removed.append(t)
        self._drop()

    def _otherwise(
        self, t: int, row: Row, before: Sequence[Tensor], parameters: Tensor, value: Tensor
    ) -> Sequence[Tensor]:
        """Where the run leaves step t with the reference in place of its observation; its effect at t is noted."""
        if self.reference == "blank":
            seen = {name: torch.zeros_like(part) for name, part in row.obs.items()}
        else:
            held = t - 1 if t else min(1, self.tape.steps - 1)
            instead = self.reference if isinstance(self.reference, int) else held
            seen = recorded_row(self.model, self.tape, instead, 1).obs
        if all(torch.equal(part, row.obs[name]) for name, part in seen.items()):
            return self.copies.run()
        other = self.kind(self.model, self.tape, before, 0)
        otherwise = other.step(t, row._replace(obs=seen))
        self._note(t, [t], torch.cat([parameters, otherwise[0]]), torch.cat([value, otherwise[1]]))
        return other.run()

    def _note(self, t: int, removed: list[int], parameters: Tensor, value: Tensor) -> None:
        """Hold the rows that did not take in the steps `removed` against the run, row 0."""
        if removed:
            policy = self.model.actions.distribution(parameters).double()
            self.found.divergence[t, removed] = from_first(self.model, policy).cpu().numpy()
            change = (value[1:] - value[:1]).double().abs()
            self.found.value_change[t, removed] = change.cpu().numpy()

    def _drop(self) -> None:
        """Forget the copies whose state is that of the run: they give what the run gives, for ever."""
        rows = torch.arange(1, 1 + len(self.removed), device=self.model.device)
        for part in sorted(self.copies.carried(), key=lambda part: int(part[0].nbytes)):
            if len(rows) == 0:
                return
            rows = rows[(part[rows] == part[:1]).reshape(len(rows), -1).all(1)]
        self.leave_out([self.removed[row - 1] for row in rows.tolist()])

    def leave_out(self, steps: Collection[int]) -> None:
        """Forget the copies that did not take in these steps."""
        if not steps:
            return
        kept = [0, *(row for row, s in enumerate(self.removed, start=1) if s not in steps)]
        self.removed = [self.removed[row - 1] for row in kept[1:]]
        self.copies.keep(kept)


@torch.no_grad()
def without_steps(
    model: Actor, tape: Tape, t: int, removed: Sequence[Sequence[int]]
) -> tuple[list[ActionDistribution], list[AgentState]]:
    """Policies at step t, and the states that enter it, of the run and of a replay for each set of removed steps.

    None of the steps of a set is taken in; everything else is as in `step_effect`.
    """
    rows = 1 + len(removed)
    core = model.initial_state(rows).core
    for tau in range(t):
        out = act_again(model, tape, tau, recorded_row(model, tape, tau, 1), core, rows)
        stays = torch.tensor([False, *(tau in steps for steps in removed)], device=model.device)
        core = type(core)(
            *(_where(stays, before, after) for before, after in zip(core, out.state.core, strict=True))
        )
    row = recorded_row(model, tape, t, 1)
    answer = act_again(model, tape, t, row, core, rows).policy.double().parameters
    # An empty state leaves no trace of how many rows there were: all of them answer alike.
    policies = [model.actions.distribution(x) for x in answer.expand(rows, -1)]
    index = torch.arange(rows, device=model.device)
    return policies, [AgentState(select_state(core, i[None]), row.action, row.reward) for i in index]


def _where(rows: Tensor, there: Tensor, else_: Tensor) -> Tensor:
    """`there` [R, ...] in the given rows, `else_` in the others."""
    return torch.where(rows.view(-1, *[1] * (there.dim() - 1)), there, else_)


@torch.no_grad()
def all_forgotten(model: Actor, tape: Tape, only: int | None = None) -> Float:
    """[T] the greatest change of any action's probability at t if no earlier step had been taken in.

    The twin that has just begun never acts on: the next step starts from the run's own state. With `only` the other
    steps are left at 0.
    """
    initial = model.initial_state(1).core
    core, found = initial, np.zeros(tape.steps)
    first = torch.zeros(1, dtype=torch.int64, device=model.device)
    for t in range(tape.steps if only is None else only + 1):
        row = recorded_row(model, tape, t, 1)
        if only not in (None, t) or all(map(torch.equal, core, initial)):
            core = act_again(model, tape, t, row, core, 1).state.core
            continue
        both = type(core)(*(torch.cat(pair) for pair in zip(core, initial, strict=True)))
        out = act_again(model, tape, t, row, both, 2)
        found[t] = change_between(model, out.policy)
        core = select_state(out.state.core, first)
    return found


def act_again(model: Actor, tape: Tape, t: int, row: Row, core: Any, rows: int) -> ActOutput:
    """What the agent answers to the recorded step t from `rows` states; what it drew then is drawn again."""
    noise = tape.choices
    drawn = None
    if noise is not None:
        drawn = torch.as_tensor(noise[t], device=model.device).expand(rows, *noise[t].shape)
        drawn = drawn.to(next(model.core.parameters()).dtype)
    state = AgentState(core, row.action, row.reward)
    out: ActOutput = model.act(row.obs, row.is_first, state, noise=drawn, copies=rows)
    return out
