"""The one acting loop outside training: a policy plays episodes, and an observer is told of every step.

Evaluation, recording, planted cues and deletion are observers and openings of `play`. Several episodes are in play
at once, each in an environment of its own and with random streams of its own, so that what happens in an episode
does not depend on how many are played beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from torch import Tensor

from agents.config import MOST_STEPS
from agents.distributions import ActionDistribution
from agents.model import ActOutput, AgentState
from agents.rollout import select_agent

Policy = Literal["greedy", "sample"]
Env = gymnasium.Env[Any, Any]
Actor = Any
"""What plays: an `agents.model.ActorCritic`, or anything with its initial_state, act, after, actions and core."""


@dataclass(frozen=True)
class Opening:
    """How an episode begins."""

    seed: int
    """With which the environment is reset."""
    rng: np.random.Generator | None = None
    """Stream of the sampled policy's draws; None under the greedy policy."""
    options: dict[str, Any] | None = None
    """Of the reset."""
    actions: Sequence[Any] = ()
    """Played first, without asking the agent."""
    state: AgentState | None = None
    """One row, which enters the first step that the agent plays; None: the initial state."""


@dataclass
class Moment:
    """One step of one episode; what the environment answers is known in `Observer.after` alone."""

    episode: int
    """Number of its opening."""
    t: int
    """Counted from the first step that the agent plays."""
    env: Env
    row: int
    """The episode's row in `out`."""
    out: ActOutput
    observation: dict[str, Any]
    previous_action: Any
    previous_reward: float
    action: Any
    """In the agent's own form; `wire` is what the environment takes."""
    wire: Any
    noise: Tensor | None
    """What the memory's own choices were drawn with, [B, ...]; None: the most probable ones."""
    reward: float = float("nan")
    terminated: bool = False
    truncated: bool = False
    cut: bool = False
    """Whether the player ended the episode, not the environment."""
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the episode ends with this step."""
        return self.terminated or self.truncated or self.cut


class Observer:
    """Is told of every step; it changes nothing."""

    def before(self, moment: Moment) -> None:
        """The agent has chosen, the environment has not moved yet."""

    def after(self, moment: Moment) -> None:
        """The environment has answered."""


@dataclass
class _Slot:
    """One environment and the episode that it is playing."""

    env: Env
    episode: int
    rng: np.random.Generator | None
    observation: dict[str, Any]
    action: Any
    reward: float
    is_first: bool
    t: int = 0


@torch.no_grad()
def play(
    model: Actor,
    envs: Sequence[Env],
    openings: Sequence[Opening],
    policy: Policy = "greedy",
    observer: Observer | None = None,
    record: bool = False,
    between_steps: Callable[[AgentState], AgentState] = lambda state: state,
    most_steps: int = MOST_STEPS,
) -> None:
    """Play every opening to its end, as many at a time as there are environments.

    `record` asks the memory for what it writes and reads. `between_steps` may change what the agents carry from a
    step to the next, as `recall.scores.intervene.FORGET` does. `most_steps` ends episodes that do not end.
    """
    seen = observer or Observer()
    coming = min(len(envs), len(openings))
    state, device = model.initial_state(coming), model.device
    none = model.actions.none(1, torch.device("cpu"))[0].numpy()
    slots = []
    for number in range(coming):
        slot, state = _open(envs[number], number, openings[number], none, state, number)
        slots.append(slot)
    while True:
        obs = {key: _stack([slot.observation[key] for slot in slots], device) for key in slots[0].observation}
        is_first = torch.tensor([slot.is_first for slot in slots], device=device)
        rngs = [slot.rng for slot in slots]
        noise = memory_noise(model, policy, rngs)
        out = model.act(obs, is_first, state, record=record, noise=noise)
        actions = choose(out.policy, policy, rngs)
        wire, chosen = model.actions.to_env(actions), actions.cpu().numpy()
        kept, rewards, opened = [], [], []
        for row, slot in enumerate(slots):
            moment = Moment(
                slot.episode, slot.t, slot.env, row, out, slot.observation, slot.action, slot.reward, chosen[row],
                wire[row], noise,
            )  # fmt: skip
            seen.before(moment)
            following, reward, terminated, truncated, moment.info = slot.env.step(wire[row])
            moment.reward, moment.terminated, moment.truncated = (
                float(reward),
                bool(terminated),
                bool(truncated),
            )
            moment.cut = slot.t + 1 >= most_steps and not moment.done
            rewards.append(moment.reward)
            seen.after(moment)
            slot.observation, slot.action, slot.reward = following, chosen[row], moment.reward
            slot.is_first, slot.t = False, slot.t + 1
            if moment.done:
                if coming == len(openings):
                    continue
                opened.append((row, coming))
                coming += 1
            kept.append(row)
        state = between_steps(model.after(out.state, actions, torch.tensor(rewards, device=device)))
        for row, number in opened:
            slots[row], state = _open(slots[row].env, number, openings[number], none, state, row)
        if len(kept) < len(slots):
            slots = [slots[row] for row in kept]
            if not slots:
                return
            state = select_agent(state, torch.tensor(kept, dtype=torch.int64, device=device))


def choose(answer: ActionDistribution, policy: Policy, rngs: Sequence[np.random.Generator | None]) -> Tensor:
    """Actions [B, *shape] of distributions [B, P]: the most probable ones, or draws with one stream per row."""
    return answer.mode() if policy == "greedy" else answer.draw([rng for rng in rngs if rng is not None])


def memory_noise(model: Actor, policy: Policy, rngs: Sequence[np.random.Generator | None]) -> Tensor | None:
    """What the memory's own choices are drawn with under the sampled policy; None: the most probable ones."""
    shape = model.core.noise_shape
    if policy == "greedy" or shape is None:
        return None
    drawn = np.stack([rng.gumbel(size=shape) for rng in rngs if rng is not None])
    return torch.from_numpy(drawn).to(next(model.core.parameters()))


def _open(
    env: Env, number: int, opening: Opening, none: Any, state: AgentState, row: int
) -> tuple[_Slot, AgentState]:
    """The environment at the agent's first step of an opening, and the state with the row that enters it."""
    observation, _ = env.reset(seed=opening.seed, options=opening.options)
    action, reward = none, 0.0
    for action in opening.actions:
        observation, paid, *_ = env.step(action)
        reward = float(paid)
    given = opening.state
    if given is not None:
        core = type(state.core)(*(_with_row(x, row, y) for x, y in zip(state.core, given.core, strict=True)))
        state = AgentState(
            core, _with_row(state.action, row, given.action), _with_row(state.reward, row, given.reward)
        )
    return _Slot(env, number, opening.rng, observation, action, reward, given is None), state


def _with_row(rows: Tensor, row: int, one: Tensor) -> Tensor:
    """`rows` [B, ...] with row `row` replaced by `one` [1, ...]."""
    return torch.cat([rows[:row], one, rows[row + 1 :]])


def _stack(arrays: list[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(device)
