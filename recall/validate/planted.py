"""Held-out episodes with a known answer: which step the agent needs to remember when it decides.

An environment with a planted cue says in its info at which step the cue was seen (`cue_step`), at which step it
must be used (`decision_step`) and what it was (`cue`), -1 where that has not happened yet; the agent never
sees this. `reset(options={"flip_cue": True})` gives the same episode with the other cue; the two side by side show
every step at which the cue was in view, and where this agent decides by it (`beside`). An environment may instead
name, at every step, the earlier steps any of which showed what is needed now (`needed_steps`): one step that has
some is drawn as the decision. Elsewhere a probe step, drawn from the second half of the episode, takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agents.evaluation import LoadedAgent
from agents.play import Env, Moment, Opening, play
from envs import held_out_seed, make_single
from envs.door import Door
from recall.record.recorder import TapeObserver, records
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
    for env in envs:
        env.close()
    return played


def beside(episode: PlayedEpisode, twin: PlayedEpisode) -> tuple[PlayedEpisode, PlayedEpisode]:
    """Both with what an episode and the same one with the other cue show only together.

    The cue is in view where they see different things. The agent decides where, later, they see the same and act
    otherwise for the first time: it may do so before or after the place that the environment names, and two that act
    alike up to there are in the same state of the world. Where there is no such step, the environment's word stands.
    """
    shown: list[int] = []
    for t in range(min(episode.tape.steps, twin.tape.steps)):
        sights = episode.tape.observation.items()
        same = all(np.array_equal(part[t], twin.tape.observation[name][t]) for name, part in sights)
        if not same:
            shown.append(t)
        if not np.array_equal(episode.tape.action[t], twin.tape.action[t]):
            if not (same and shown):
                break
            *also, latest = shown
            first, second = (
                replace(e, cue_step=latest, also=tuple(also), decision=t, decides=True)
                for e in (episode, twin)
            )
            return first, second
    return episode, twin


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
