"""The pair bandit: single and native forms agree, resume is exact, and the closed-form returns are the true ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from native_forms import assert_equals_single_form, assert_snapshot_continues

import envs
from envs.pair_bandit import PairBandit, Rules

SETTINGS: list[dict[str, Any]] = [
    {"contexts": 4, "rounds": 3},
    {"contexts": 5, "doors": 3, "rounds": 2, "codes": "random", "feedback": "reward", "blocks": 2},
    {"contexts": 4, "codes": "random", "blocks": 2},
    {"contexts": 3, "symbols": 7},
]


@pytest.mark.parametrize("kwargs", SETTINGS)
def test_native_form_equals_single_environments_step_by_step(kwargs):
    assert_equals_single_form("mnm/PairBandit-v0", kwargs, steps=90)


@pytest.mark.parametrize("kwargs", SETTINGS)
def test_a_snapshot_continues_exactly(kwargs):
    assert_snapshot_continues("mnm/DoorMaze-v0", kwargs)


def play(env: PairBandit, memory: bool, seed: int) -> float:
    """One episode of a player that reads observations only and remembers outcomes, or of one that forgets."""
    rules, rng = env.rules, np.random.default_rng(seed + 10_000)
    observation, _ = env.reset(seed=seed)
    left: dict[bytes, set[int]] = {}
    total, done, size, doors = 0.0, False, rules.code_size, rules.doors
    while not done:
        code = observation[:size].tobytes()
        options = left.setdefault(code, set(range(doors))) if memory else set(range(doors))
        action = int(rng.choice(sorted(options)))
        observation, reward, done, _, _ = env.step(action)
        total += reward
        if memory and rules.feedback == "told":
            left[code] = {int(observation[2 * size + doors + 1 :][:doors].argmax())}
        elif memory:
            left[code] = {action} if reward else options - {action}
        if rules.blocks == 2 and observation[-1] == 1:
            left = {}
    return total


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [*SETTINGS, {"contexts": 4, "rounds": 6, "feedback": "reward"}])
@pytest.mark.parametrize("memory", [True, False])
def test_closed_form_returns_are_those_of_players(kwargs, memory):
    env = PairBandit(**kwargs)
    expected = env.rules.optimal_return if memory else env.rules.memoryless_return
    returns = [play(env, memory, seed) for seed in range(120)]
    error = np.std(returns) / np.sqrt(len(returns))
    assert abs(np.mean(returns) - expected) < 4 * error


def test_known_optima():
    assert Rules(16, 4, 3, "symbol", "told", 1).optimal_return == 36
    assert Rules(16, 4, 3, "symbol", "told", 1).memoryless_return == 12
    assert Rules(4, 4, 6, "symbol", "reward", 1).optimal_return == 4 * 4.5


def test_an_alphabet_as_large_as_the_episode_changes_nothing():
    """The draws of an episode stay the same, so that every trained agent meets the levels it has always met."""
    plain, named = (Rules(6, 4, 3, "symbol", "told", 1, symbols) for symbols in (None, 6))
    for mine, theirs in zip(*(rules.draw(np.random.default_rng(3)) for rules in (plain, named)), strict=True):
        assert np.array_equal(mine, theirs)


def test_episodes_draw_their_symbols_from_the_alphabet():
    rules = Rules(3, 4, 3, "symbol", "told", 1, 7)
    seen = set()
    for seed in range(60):
        codes, _, _ = rules.draw(np.random.default_rng(seed))
        assert codes.shape == (3, 7)
        assert len({int(code.argmax()) for code in codes}) == 3
        seen |= {int(code.argmax()) for code in codes}
    assert seen == set(range(7))


def test_needed_steps_hold_the_answer_for_the_present_sign():
    env = PairBandit(contexts=4, rounds=3, blocks=2)
    observation, info = env.reset(seed=0)
    seen, named, done = [observation], 0, False
    while not done:
        observation, _, done, _, info = env.step(0)
        for step in info["needed_steps"]:
            named += 1
            assert step < len(seen)
            assert np.array_equal(seen[step][4:8], observation[:4])
            assert seen[step][13:17].argmax() == env.right[env.steps]
        seen.append(observation)
    assert named > 10


def test_picture_and_gymnasium_checker():
    env = PairBandit(render_mode="rgb_array")
    check_env(env, skip_render_check=True)
    env.reset(seed=0)
    opening = env.render()
    env.step(1)
    after = env.render()
    assert opening is not None
    assert after is not None
    assert opening.shape == after.shape
    assert not np.array_equal(opening, after)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"contexts": 0}, "contexts"),
        ({"blocks": 3}, "blocks"),
        ({"codes": "words"}, "symbol or random"),
        ({"feedback": "none"}, "told or reward"),
        ({"contexts": 8, "symbols": 7}, r"from contexts \(8\) to 1024, not 7"),
        ({"contexts": 8, "symbols": True}, "not True"),
        ({"codes": "random", "symbols": 20}, "needs codes symbol"),
    ],
)
def test_faults_are_named(kwargs, message):
    with pytest.raises(envs.UserError, match=message):
        PairBandit(**kwargs)
