"""MiniGrid's memory tasks say what the agent needs to remember, and stay what they were."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from minigrid.envs.memory import MemoryEnv
from minigrid.wrappers import ImgObsWrapper

from envs import make_single
from envs.memory_cue import MemoryCue

ENV = "MiniGrid-MemoryS13-v0"
LEFT, RIGHT, FORWARD = 0, 1, 2


def wandering(env: gymnasium.Env, seed: int, steps: int = 200, **options: bool):
    """Observations, rewards and infos of a random walk that mostly goes forward."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed, options=options or None)
    rows = [(observation, 0.0, info)]
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(
            rng.choice([LEFT, RIGHT, FORWARD, FORWARD])
        )
        rows.append((observation, float(reward), info))
        if terminated or truncated:
            break
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [ENV, "MiniGrid-MemoryS17Random-v0"])
def test_the_task_stays_what_it_was(env_id: str) -> None:
    for seed in range(10):
        ours, plain = (
            wandering(env, seed) for env in (MemoryCue(gymnasium.make(env_id)), gymnasium.make(env_id))
        )
        assert len(ours) == len(plain)
        for (mine, paid, _), (theirs, due, _) in zip(ours, plain, strict=True):
            np.testing.assert_array_equal(mine["image"], theirs["image"])
            assert (mine["direction"], paid) == (theirs["direction"], due)


@pytest.mark.slow
def test_the_cue_step_is_the_first_at_which_minigrid_says_that_the_agent_sees_it() -> None:
    found = []
    for seed in range(30):
        env = MemoryCue(gymnasium.make(ENV))
        rng = np.random.default_rng(seed)
        _, info = env.reset(seed=seed)
        first = 0 if env.task.agent_sees(*env.place) else -1
        for step in range(1, 150):
            assert info["cue_step"] == first
            _, _, terminated, truncated, info = env.step(rng.choice([LEFT, RIGHT, FORWARD]))
            if first < 0 and env.task.agent_sees(*env.place):
                first = step
            if terminated or truncated:
                break
        found.append(first)
    assert max(found) > 0
    assert -1 in found


def walk_to_the_end(env: MemoryCue) -> int:
    """Steps that lead from the start to the end of the hallway; the agent faces it at first."""
    far = env.task.success_pos[0] - int(env.task.agent_pos[0])
    for _ in range(far):
        _, _, _, _, info = env.step(FORWARD)
    assert info["decision_step"] == far
    return far


def test_the_decision_is_the_last_arrival_at_the_end_of_the_hallway() -> None:
    env = MemoryCue(gymnasium.make(ENV))
    _, info = env.reset(seed=3)
    assert info["decision_step"] == -1
    far = walk_to_the_end(env)
    # Staying there and turning is no new arrival; going back and coming again is.
    for steps, action in enumerate((LEFT, LEFT, FORWARD, LEFT, LEFT), start=1):
        _, _, _, _, info = env.step(action)
        assert info["decision_step"] == far, steps
    _, _, _, _, info = env.step(FORWARD)
    assert info["decision_step"] == far + 6


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_cue_makes_the_other_exit_right(seed: int) -> None:
    outcomes = []
    for flip in (False, True):
        env = MemoryCue(gymnasium.make(ENV))
        _, info = env.reset(seed=seed, options={"flip_cue": flip})
        walk_to_the_end(env)
        env.step(LEFT)
        _, reward, terminated, _, _ = env.step(FORWARD)
        assert terminated
        outcomes.append((info["cue"], float(reward) > 0))
    (cue, right), (other_cue, other_right) = outcomes
    assert (other_cue, other_right) == (1 - cue, not right)


@pytest.mark.parametrize("env_id", [ENV, f"minigrid:{ENV}"])
def test_the_agents_environment_says_it_too(env_id: str) -> None:
    rows = wandering(make_single(env_id, {"actions": [0, 1, 2]}), 0)
    assert {"cue", "cue_step", "decision_step"} <= set(rows[-1][2])
    flipped = wandering(make_single(ENV, {"actions": [0, 1, 2]}), 0, flip_cue=True)
    assert flipped[0][2]["cue"] == 1 - rows[0][2]["cue"]


def in_pictures(**kwargs: Any) -> gymnasium.Env:
    """A memory task whose observation is the image alone."""
    return ImgObsWrapper(MemoryEnv(size=7, **kwargs))


@pytest.mark.parametrize("entry_point", ["minigrid.envs:EmptyEnv", in_pictures])
def test_other_tasks_and_other_observations_stay_as_they_are(entry_point: Any) -> None:
    name = "MiniGrid-MemoryOfSomebodyElse-v0"
    gymnasium.register(name, entry_point=entry_point)
    try:
        _, info = make_single(name).reset(seed=0)
        assert "cue" not in info
    finally:
        del gymnasium.registry[name]
