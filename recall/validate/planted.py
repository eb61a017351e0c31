"""Held-out episodes with a known answer: which step the agent needs to remember when it decides.

An environment with a planted cue says in its info at which step the cue was seen (`cue_step`), at which step it
must be used (`decision_step`) and what it was (`cue`), -1 where that has not happened yet; the agent never
sees this. `reset(options={"flip_cue": True})` gives the same episode with the other cue, which also tells every step
at which the cue was in view, and where this agent acts by it (`with_decision`). An environment may instead
name, at every step, the earlier steps any of which showed what is needed now (`needed_steps`): one step that has
some is drawn as the decision. Elsewhere a probe step, drawn from the second half of the episode, takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from agents.evaluation import LoadedAgent
from agents.play import Env, Moment, Opening, play
from envs import held_out_seed, make_single
from envs.door import Door
from recall.record.recorder import TapeObserver, records, retape
from recall.record.tape import Tape

WAVE = 50
"""Episodes that are played together."""


@dataclass(frozen=True)
class PlayedEpisode:
    """One episode, played greedily, with what its environment planted."""

    tape: Tape
    seed: int
    cue: int
    """Which cue; -1 where the environment has none, 0 where it names needed steps."""
    cue_step: int
    """-1 where the environment has no cue, or the agent never saw it; the latest of several."""
    decision: int
    """Step at which the cue is to be used, or a probe step where the environment names none."""
    decides: bool
    """Whether `decision` is a step that the environment named."""
    terminated: bool
    also: tuple[int, ...] = ()
    """Further steps that showed what is needed."""
    repeats: bool = False
    """Whether the environment names needed steps all the time, so that there is no one end that is a success."""

    @property
    def needed(self) -> tuple[int, ...]:
        """The steps any of which showed what is needed at the decision."""
        return (self.cue_step, *self.also)

    @property
    def success(self) -> bool:
        """Whether the episode was ended by a reward; where needed steps are named, whether there was any."""
        return (self.terminated or self.repeats) and self.total > 0

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


def play_planted(agent: LoadedAgent, episodes: int, seed: int, flip: bool = False) -> list[PlayedEpisode]:
    """Episodes 0 .. episodes-1 of evaluation seed `seed`, with the cue flipped if asked for."""
    envs = [make_env(agent) for _ in range(min(WAVE, episodes))]
    played: list[PlayedEpisode] = []
    for first in range(0, episodes, WAVE):
        numbers = range(first, min(first + WAVE, episodes))
        played += _wave(agent, envs[: len(numbers)], [held_out_seed(seed, n) for n in numbers], flip)
    played = [
        with_decision(agent, envs[0], episode, not flip)
        if episode.planted and not episode.repeats
        else episode
        for episode in played
    ]
    for env in envs:
        env.close()
    return played


def with_decision(agent: LoadedAgent, env: Door, episode: PlayedEpisode, flip: bool) -> PlayedEpisode:
    """The episode with what only the other cue can tell: where the cue was in view, and where this agent acts by it.

    The environment is played again with the other cue and the same actions: it looks different where the cue is in
    view. The agent lives through what it would have seen so, and decides at the first step from the named one on at
    which it would have acted otherwise. If there is no such step, or no other cue, the environment's word stands.
    """
    seen = _with_other_cue(agent, env, episode, flip)
    if seen is None:
        return episode
    tape, sights = episode.tape, episode.tape.observation.items()
    shown = [t for t in range(tape.steps) if any((part[t] != seen[name][t]).any() for name, part in sights)]
    with torch.no_grad():
        again = retape(agent.model, replace(tape, observation=seen))
    acts = agent.model.actions.distribution(torch.from_numpy(again.logits)).mode().numpy()
    for t in range(episode.decision, tape.steps):
        if t not in shown and (acts[t] != tape.action[t]).any():
            *also, latest = [s for s in shown if s < t] or [episode.cue_step]
            return replace(episode, cue_step=latest, also=tuple(also), decision=t)
    return episode


def _with_other_cue(
    agent: LoadedAgent, env: Door, episode: PlayedEpisode, flip: bool
) -> dict[str, Any] | None:
    """Name -> [T, ...] what the same actions show with the other cue; None where there is no other."""
    tape = episode.tape
    observation, info = env.reset(seed=episode.seed, options={"flip_cue": True} if flip else None)
    rows = [observation]
    for action in agent.model.actions.to_env(torch.from_numpy(tape.action[:-1])):
        observation, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            return None
        rows.append(observation)
    if info.get("cue", episode.cue) == episode.cue:
        return None
    return {name: np.stack([row[name] for row in rows]) for name in tape.observation}


class _Plans(TapeObserver):
    """Tapes, and what the environment said of its plan when the episode ended."""

    def __init__(self, agent: LoadedAgent, seeds: list[int]) -> None:
        super().__init__(agent.model, agent.config.core, seeds)
        self.seeds = seeds
        self.played: dict[int, PlayedEpisode] = {}
        self.needed: dict[int, dict[int, tuple[int, ...]]] = {}
        """For every episode, the steps of which the environment named needed ones."""

    def after(self, moment: Moment) -> None:
        super().after(moment)
        number, steps = moment.episode, moment.info.get("needed_steps", ())
        needed = self.needed.setdefault(number, {})
        if len(steps) and not moment.done:
            needed[moment.t + 1] = tuple(int(step) for step in steps)
        if moment.done:
            tape, seed = self.recorders[number].tape(), self.seeds[number]
            self.played[number] = (
                _with_needed(tape, seed, needed, moment.terminated)
                if "needed_steps" in moment.info
                else _with_plan(tape, seed, moment.info, moment.terminated)
            )


def _wave(agent: LoadedAgent, envs: Sequence[Env], seeds: list[int], flip: bool) -> list[PlayedEpisode]:
    plans, options = _Plans(agent, seeds), {"flip_cue": True} if flip else None
    openings = [Opening(seed, options=options) for seed in seeds]
    play(agent.model, envs, openings, "greedy", plans, records(agent.model))
    return [plans.played[number] for number in range(len(seeds))]


def _with_plan(tape: Tape, seed: int, info: dict[str, Any], terminated: bool) -> PlayedEpisode:
    decision = int(info.get("decision_step", -1))
    decides = 0 <= decision < tape.steps
    if not decides:
        decision = int(np.random.default_rng(seed).integers(tape.steps // 2, tape.steps))
    cue, cue_step = int(info.get("cue", -1)), int(info.get("cue_step", -1))
    return PlayedEpisode(tape, seed, cue, cue_step, decision, decides, terminated)


def _with_needed(
    tape: Tape, seed: int, needed: dict[int, tuple[int, ...]], terminated: bool
) -> PlayedEpisode:
    rng = np.random.default_rng(seed)
    if not needed:
        probe = int(rng.integers(tape.steps // 2, tape.steps))
        return PlayedEpisode(tape, seed, 0, -1, probe, False, terminated, repeats=True)
    decision = int(rng.choice(list(needed)))
    *also, latest = sorted(needed[decision])
    return PlayedEpisode(tape, seed, 0, latest, decision, True, terminated, tuple(also), True)
