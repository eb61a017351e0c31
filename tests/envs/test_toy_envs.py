"""T-maze and repeat-previous: rules, what memory is worth in them, and their pictures."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.repeat_previous import RepeatPrevious
from envs.tmaze import DOWN, FORWARD, UP, TMaze


@pytest.mark.parametrize("env_id", ["mnm/TMaze-v0", "mnm/RepeatPrevious-v0"])
def test_gymnasium_checker_and_rendering(env_id: str) -> None:
    env = gymnasium.make(env_id, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.reset(seed=0)
    before: Any = env.render()
    for _ in range(6):
        env.step(0)
    after: Any = env.render()
    assert before.dtype == np.uint8
    assert before.shape == after.shape
    assert max(before.shape) < 400
    assert (before != after).any()
    assert gymnasium.make(env_id).unwrapped.render() is None


def test_tmaze_shows_the_cue_once_at_a_varying_time() -> None:
    env = TMaze(length=10)
    cues, cells = set(), set()
    for seed in range(100):
        observation, info = env.reset(seed=seed)
        shown = []
        for step in range(11):
            if observation[:2].any():
                shown.append(step)
                assert observation.tolist() == [env.cue == UP, env.cue == DOWN, 1, 0]
            else:
                assert observation.tolist() == [0, 0, step < 10, step == 10]
            assert info["cue_step"] == (shown[0] if shown else -1)
            if step < 10:
                observation, reward, terminated, truncated, info = env.step(FORWARD)
                assert (reward, terminated, truncated) == (0.0, False, False)
        assert len(shown) == 1
        cues.add(env.cue)
        cells.add(shown[0])
    assert cues == {UP, DOWN}
    assert cells == set(range(5)), "the cue lies in the first half"


def walk_to_junction(env: TMaze) -> None:
    for _ in range(env.length):
        env.step(FORWARD)


def test_tmaze_turns_and_bumps() -> None:
    env = TMaze(length=4)
    env.reset(seed=0)
    for action in (UP, DOWN):
        observation, reward, terminated, _, _ = env.step(action)
        assert (reward, terminated, env.position) == (-0.1, False, 0)
    walk_to_junction(env)
    observation, reward, terminated, _, _ = env.step(FORWARD)
    assert (reward, terminated, env.position) == (-0.1, False, 4)
    assert observation.tolist() == [0, 0, 0, 1]
    _, reward, terminated, truncated, _ = env.step(env.cue)
    assert (reward, terminated, truncated) == (1.0, True, False)

    env.reset(seed=0)
    walk_to_junction(env)
    _, reward, terminated, _, _ = env.step(UP + DOWN - env.cue)
    assert (reward, terminated) == (-1.0, True)


def test_tmaze_time_limit_and_cue_step_after_bumps() -> None:
    env = TMaze(length=3)
    env.reset(seed=1)
    assert env.cue_cell == 0
    ends = [env.step(UP)[2:4] for _ in range(12)]
    assert ends == [(False, False)] * 11 + [(False, True)]

    env = TMaze(length=10)
    seed = next(seed for seed in range(100) if env.reset(seed=seed) and env.cue_cell == 3)
    env.reset(seed=seed)
    env.step(UP)
    infos = [env.step(FORWARD)[4]["cue_step"] for _ in range(5)]
    assert infos == [-1, -1, 4, 4, 4]


def test_tmaze_success_is_declared() -> None:
    assert envs.make_vec("mnm/TMaze-v0", 2, 0).success_rule == "positive_return"
    assert envs.make_vec("mnm/RepeatPrevious-v0", 2, 0).success_rule is None


def play_repeat(env: RepeatPrevious, answer: Any, seed: int) -> tuple[float, int]:
    """Return and length of an episode whose answers are `answer(symbols seen so far)`."""
    observation, _ = env.reset(seed=seed)
    seen, total, steps, terminated = [int(observation.argmax())], 0.0, 0, False
    while not terminated:
        observation, reward, terminated, truncated, _ = env.step(answer(seen))
        assert not truncated, "the task is over, the clock did not stop it"
        assert observation.sum() == 1
        if steps < env.lag:
            assert reward == 0
        else:
            assert abs(reward) == pytest.approx(1 / (env.length - env.lag))
        seen.append(int(observation.argmax()))
        total += reward
        steps += 1
    return total, steps


def test_repeat_previous_returns() -> None:
    env = RepeatPrevious(lag=4, length=32)
    total, steps = play_repeat(env, lambda seen: seen[-5] if len(seen) > 4 else 0, seed=0)
    assert (total, steps) == (pytest.approx(1.0), 32)
    total, _ = play_repeat(env, lambda seen: (seen[-5] + 1) % 4 if len(seen) > 4 else 0, seed=0)
    assert total == pytest.approx(-1.0)
    memoryless = [play_repeat(env, lambda seen: seen[-1], seed)[0] for seed in range(400)]
    standard_error = np.std(memoryless) / np.sqrt(len(memoryless))
    assert abs(np.mean(memoryless) + 0.5) < 4 * standard_error


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("mnm/TMaze-v0", {"length": 1}, "length of the T-maze"),
        ("mnm/TMaze-v0", {"length": "long"}, "length of the T-maze"),
        ("mnm/RepeatPrevious-v0", {"lag": 0}, "lag of repeat-previous"),
        ("mnm/RepeatPrevious-v0", {"length": 2.5}, "length of repeat-previous"),
        ("mnm/RepeatPrevious-v0", {"lag": 8, "length": 8}, "smaller than length 8"),
    ],
)
def test_bad_settings_are_refused(env_id: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(envs.UserError, match=message):
        envs.make_single(env_id, kwargs)
