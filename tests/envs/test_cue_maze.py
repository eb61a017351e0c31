"""Cue maze and the visible T-maze: rules, what the report needs to know, pictures."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.cue_maze import MAX_STEPS, ROOM, STEP_COST, CueMaze
from envs.tmaze import DOWN, FORWARD, UP, TMaze

NORTH, SOUTH, WEST, EAST = range(4)
SIGN = slice(18, 20)


def test_gymnasium_checker_and_rendering() -> None:
    env = gymnasium.make("mnm/CueMaze-v0", render_mode="rgb_array")
    check_env(env.unwrapped)
    env.reset(seed=0)
    before: Any = env.render()
    for _ in range(4):
        env.step(EAST)
    after: Any = env.render()
    assert before.dtype == np.uint8
    assert before.shape == after.shape
    assert (before != after).any()
    assert gymnasium.make("mnm/CueMaze-v0").unwrapped.render() is None


def walk(env: CueMaze, seed: int, flip: bool = False) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """To the fork by the shortest way; observations and infos."""
    observation, info = env.reset(seed=seed, options={"flip_cue": True} if flip else None)
    seen, infos = [observation], [info]
    while env.cell != env.fork:
        row = env.cell[0]
        action = EAST if row == env.fork[0] else SOUTH if row < env.fork[0] else NORTH
        observation, reward, terminated, truncated, info = env.step(action)
        assert (reward, terminated, truncated) == (-STEP_COST, False, False)
        seen.append(observation)
        infos.append(info)
    return seen, infos


def test_the_sign_is_shown_once_at_a_varying_time_and_lag() -> None:
    env = CueMaze(length=6)
    times, lags, cues, cells = set(), set(), set(), set()
    for seed in range(150):
        seen, infos = walk(env, seed)
        shown = [t for t, observation in enumerate(seen) if observation[SIGN].any()]
        assert len(shown) == 1
        assert seen[shown[0]][SIGN].argmax() == env.cue == infos[-1]["cue"]
        assert infos[-1]["cue_step"] == shown[0]
        assert infos[-1]["decision_step"] == len(seen) - 1
        assert all(info["cue_step"] == (shown[0] if t >= shown[0] else -1) for t, info in enumerate(infos))
        assert all(info["decision_step"] == -1 for info in infos[:-1])
        times.add(shown[0])
        lags.add(len(seen) - 1 - shown[0])
        cues.add(env.cue)
        cells.add(env.sign[1])
    assert cues == {0, 1}
    assert cells == {ROOM + 1 + n for n in range(5)}
    assert len(times) >= 6
    assert len(lags) == 5
    assert max(times) < MAX_STEPS


@pytest.mark.parametrize("right", [True, False])
def test_goals_pay_what_the_sign_says(right: bool) -> None:
    env = CueMaze(length=4)
    for seed in range(4):
        walk(env, seed)
        action = (NORTH, SOUTH)[env.cue if right else 1 - env.cue]
        assert env.step(action)[1:4] == (-STEP_COST, False, False)
        observation, reward, terminated, truncated, _ = env.step(action)
        assert (terminated, truncated) == (True, False)
        assert reward == pytest.approx((1.0 if right else -1.0) - STEP_COST)
        assert not observation[SIGN].any()


def test_the_flipped_episode_differs_in_the_sign_alone() -> None:
    env = CueMaze()
    for seed in range(5):
        seen, infos = walk(env, seed)
        twin, twin_infos = walk(env, seed, flip=True)
        assert infos[-1]["cue"] == 1 - twin_infos[-1]["cue"]
        for t, (a, b) in enumerate(zip(seen, twin, strict=True)):
            assert np.array_equal(a, b) == (t != infos[-1]["cue_step"])
            assert np.array_equal(a[:18], b[:18])


def test_walls_closing_corridor_and_time_limit() -> None:
    env = CueMaze(length=4)
    seed = next(s for s in range(50) if env.reset(seed=s) and env.cell == (2, 1))
    env.reset(seed=seed)
    assert env.step(NORTH)[0][:9].reshape(3, 3)[0].all(), "a row of walls above"
    assert env.cell == (2, 1)
    for _ in range(8):
        env.step(SOUTH if env.cell[0] < 3 else EAST)
    inside = env.cell
    assert inside[1] > ROOM
    observation = env.step(WEST)[0]
    assert env.cell == inside, "the corridor has closed behind"
    assert observation[:9].reshape(3, 3)[1, 0] == 1.0
    ends = [env.step(WEST)[2:4] for _ in range(MAX_STEPS - env.steps)]
    assert ends[-1] == (False, True)
    assert set(ends[:-1]) == {(False, False)}


def test_settings_backends_and_success() -> None:
    with pytest.raises(envs.UserError, match="length of the cue maze"):
        envs.make_single("mnm/CueMaze-v0", {"length": 1})
    vector = envs.make_vec("mnm/CueMaze-v0", 3, 0)
    assert vector.success_rule == "positive_return"
    assert vector.reset()["obs"].shape == (3, 20)
    vector.close()


def test_tmaze_can_keep_the_cue_in_sight() -> None:
    env = TMaze(length=6, always_visible=True)
    for seed in range(4):
        observation, info = env.reset(seed=seed)
        for step in range(7):
            assert observation.tolist() == [env.cue == UP, env.cue == DOWN, step < 6, step == 6]
            assert (info["cue_step"], info["cue"]) == (0, env.cue)
            assert info["decision_step"] == (6 if step == 6 else -1)
            if step < 6:
                observation, *_, info = env.step(FORWARD)
        assert env.step(env.cue)[1] == 1.0


def test_tmaze_tells_the_decision_step_and_flips_its_cue() -> None:
    env = TMaze(length=4)
    env.reset(seed=3)
    cue, cell = env.cue, env.cue_cell
    env.step(UP)
    infos = [env.step(FORWARD)[4] for _ in range(6)]
    assert [info["decision_step"] for info in infos] == [-1, -1, -1, 5, 5, 5]
    env.reset(seed=3, options={"flip_cue": True})
    assert (env.cue, env.cue_cell) == (UP + DOWN - cue, cell)


def test_tmaze_with_a_middle_arm_pays_it_where_no_cue_was_shown() -> None:
    env = TMaze(length=4, middle_arm=True, render_mode="rgb_array")
    cues = []
    for seed in range(60):
        observation, info = env.reset(seed=seed)
        shown = 0
        for _ in range(4):
            shown += int(observation[:2].any())
            observation, reward, terminated, _, info = env.step(FORWARD)
            assert (reward, terminated) == (0.0, False)
        assert shown == (env.cue != FORWARD)
        assert (info["cue_step"] >= 0) == (env.cue != FORWARD)
        assert info["decision_step"] == 4
        action = seed % 3
        _, reward, terminated, _, _ = env.step(action)
        assert (reward, terminated) == (1.0 if action == env.cue else -1.0, True)
        assert env.render() is not None
        cues.append(env.cue)
    assert set(cues) == {FORWARD, UP, DOWN}
    blank = cues.index(FORWARD)
    env.reset(seed=blank, options={"flip_cue": True})
    assert env.cue == FORWARD, "nothing to flip"
