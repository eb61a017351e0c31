"""Held-out episodes with a known answer: which step the agent needs to remember when it decides.

An environment with a planted cue says in its info at which step the cue was seen (`cue_step`), at which step it
must be used (`decision_step`) and what it was (`cue`), -1 where that has not happened yet; the agent never
sees this. `reset(options={"flip_cue": True})` gives the same episode with the other cue. Elsewhere a probe
step, drawn from the second half of the episode, takes the place of the decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agents.evaluation import LoadedAgent, choose
from agents.model import ActorCritic, AgentState
from envs import held_out_seed, make_single
from envs.door import Door
from recall.record.tape import Tape, TapeRecorder, write_rule_of
from recall.scores.decision import recorded_row

WAVE = 50
"""Episodes that are played together."""


@dataclass(frozen=True)
class PlayedEpisode:
    """One episode, played greedily, with what its environment planted."""

    tape: Tape
    seed: int
    cue: int
    """Which cue; -1 where the environment has none."""
    cue_step: int
    """-1 where the environment has no cue, or the agent never saw it."""
    decision: int
    """Step at which the cue is to be used, or a probe step where the environment names none."""
    decides: bool
    """Whether `decision` is a step that the environment named."""
    terminated: bool

    @property
    def planted(self) -> bool:
        """Whether the needed step is known and lies before the decision."""
        return self.decides and 0 <= self.cue_step < self.decision

    @property
    def total(self) -> float:
        """The return."""
        return float(self.tape.reward.sum(dtype=np.float64))


def make_env(agent: LoadedAgent) -> Door:
    """A fresh environment of the agent's own task."""
    return make_single(agent.config.env, agent.config.env_arguments())


def about(agent: LoadedAgent, episodes: int, seed: int, success: float, planted: int) -> dict[str, Any]:
    """What a report says of the agent that it is about."""
    return {
        "env": agent.config.env,
        "env_kwargs": agent.config.env_arguments(),
        "core": agent.config.core,
        "controller": agent.config.controller,
        "checkpoint": agent.checkpoint,
        "frames": agent.frames,
        "episodes": episodes,
        "seed": seed,
        "policy": "greedy",
        "success": success,
        "planted_episodes": planted,
    }


def as_batch(observations: list[dict[str, Any]], device: torch.device) -> dict[str, torch.Tensor]:
    """Observations of several environments as one batch."""
    names = observations[0]
    return {name: torch.as_tensor(np.stack([o[name] for o in observations]), device=device) for name in names}


def play_planted(agent: LoadedAgent, episodes: int, seed: int, flip: bool = False) -> list[PlayedEpisode]:
    """Episodes 0 .. episodes-1 of evaluation seed `seed`, with the cue flipped if asked for."""
    envs = [make_env(agent) for _ in range(min(WAVE, episodes))]
    played: list[PlayedEpisode] = []
    for first in range(0, episodes, WAVE):
        numbers = range(first, min(first + WAVE, episodes))
        played += _wave(agent, envs[: len(numbers)], [held_out_seed(seed, n) for n in numbers], flip)
    for env in envs:
        env.close()
    return played


@torch.no_grad()
def _wave(agent: LoadedAgent, envs: list[Door], seeds: list[int], flip: bool) -> list[PlayedEpisode]:
    model, count = agent.model, len(envs)
    device = model.policy_head.weight.device
    state = model.initial_state(count)
    slots = model.core.addresses
    start = None if slots else model.core.weights(state.core)  # type: ignore[operator]
    rule = None if slots else write_rule_of(model.core)
    recorders = [
        TapeRecorder(
            agent.config.core,
            seed,
            start,
            batch_row=row,
            rule=rule,
            addresses=slots,
            counts=model.actions.counts,
        )
        for row, seed in enumerate(seeds)
    ]
    options = {"flip_cue": True} if flip else None
    opened = [env.reset(seed=seed, options=options) for env, seed in zip(envs, seeds, strict=True)]
    seen: list[Any] = [obs for obs, _ in opened]
    infos: list[dict[str, Any]] = [info for _, info in opened]
    alive, terminated = [True] * count, [False] * count
    action, reward, t = state.action, np.zeros(count), 0
    while any(alive):
        out = model.act(
            as_batch(seen, device), torch.full((count,), t == 0, device=device), state, record=True
        )
        before = action, reward
        action, reward = choose(out.policy, "greedy", []), np.zeros(count)
        chosen = model.actions.to_env(action)
        for row in [row for row in range(count) if alive[row]]:
            observation = seen[row]
            seen[row], paid, terminated[row], truncated, infos[row] = envs[row].step(chosen[row])
            reward[row], alive[row] = float(paid), not (terminated[row] or truncated)
            recorders[row].add(
                out.record,
                observation=observation,
                is_first=t == 0,
                previous_action=before[0][row],
                previous_reward=float(before[1][row]),
                action=action[row],
                reward=reward[row],
                logits=out.logits,
                value=float(out.value[row]),
            )
        state = model.after(
            out.state,
            action,
            torch.as_tensor(reward, dtype=torch.float32, device=device),
        )
        t += 1
    return [
        _with_plan(recorder.tape(), seed, info, end)
        for recorder, seed, info, end in zip(recorders, seeds, infos, terminated, strict=True)
    ]


def _with_plan(tape: Tape, seed: int, info: dict[str, Any], terminated: bool) -> PlayedEpisode:
    decision = int(info.get("decision_step", -1))
    decides = 0 <= decision < tape.steps
    if not decides:
        decision = int(np.random.default_rng(seed).integers(tape.steps // 2, tape.steps))
    cue, cue_step = int(info.get("cue", -1)), int(info.get("cue_step", -1))
    return PlayedEpisode(tape, seed, cue, cue_step, decision, decides, terminated)


@torch.no_grad()
def retape(model: ActorCritic, tape: Tape) -> Tape:
    """What `model` writes and reads when it sees a recorded episode: observations and actions as recorded."""
    state = model.initial_state(1)
    start = model.core.weights(state.core)  # type: ignore[operator]
    recorder = TapeRecorder(
        tape.core, tape.seed, start, rule=write_rule_of(model.core), counts=model.actions.counts
    )
    for t in range(tape.steps):
        row = recorded_row(model, tape, t, 1)
        out = model.act(row.obs, row.is_first, AgentState(state.core, row.action, row.reward), record=True)
        state = out.state
        recorder.add(
            out.record,
            observation={name: part[t] for name, part in tape.observation.items()},
            is_first=bool(tape.is_first[t]),
            previous_action=tape.previous_action[t],
            previous_reward=float(tape.previous_reward[t]),
            action=tape.action[t],
            reward=float(tape.reward[t]),
            logits=out.logits,
            value=float(out.value[0]),
        )
    return recorder.tape()
