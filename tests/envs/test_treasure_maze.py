"""The treasure maze: its forms agree, the rules are those of its docstring, and needed steps show the wanted object."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from native_forms import assert_equals_single_form, assert_snapshot_continues

import envs
from envs.render import RED
from envs.treasure_maze import TILE, Rules, TreasureMaze

SETTINGS: list[dict[str, Any]] = [
    {"side": 7, "objects": 5, "max_steps": 40},
    {"side": 9, "tour": True, "shaping": 0.2, "pillars": True, "max_steps": 30},
    {"side": 7, "objects": 3, "view": 5, "place": False, "wanted": "seen", "max_steps": 25, "patience": 6},
    {"side": 11, "view": 1, "tour": True, "max_steps": 30},
]


@pytest.mark.parametrize("kwargs", SETTINGS)
def test_native_form_equals_single_environments_step_by_step(kwargs):
    assert_equals_single_form("mnm/TreasureMaze-v0", kwargs, steps=130)


@pytest.mark.parametrize("kwargs", SETTINGS)
def test_a_snapshot_continues_exactly(kwargs):
    assert_snapshot_continues("mnm/TreasureMaze-v0", kwargs)


def decoded(rules: Rules, observation: np.ndarray) -> tuple[int | None, dict[int, int]]:
    """The wanted object, and the objects in view with their place in it."""
    view, mark, wanted, action, _ = rules.parts
    seen = observation[view:mark].reshape(rules.view**2, rules.objects + 1)[:, 1:]
    asked = observation[wanted:action]
    assert np.array_equal(observation[mark:wanted], seen @ asked)
    return (int(asked.argmax()) if asked.any() else None), {int(k): int(at) for at, k in np.argwhere(seen)}


@pytest.mark.parametrize("kwargs", SETTINGS)
def test_needed_steps_are_those_that_showed_the_wanted_object(kwargs):
    env, rng, named = TreasureMaze(**kwargs), np.random.default_rng(2), 0
    for seed in range(4):
        observation, info = env.reset(seed=seed)
        shown, done = [], False
        while not done:
            wanted, now = decoded(env.rules, observation)
            expected = tuple(t for t, before in enumerate(shown) if wanted in before)
            assert info["needed_steps"] == (() if wanted in now else expected)
            named += len(info["needed_steps"])
            shown.append(now)
            observation, _, _, done, info = env.step(int(rng.integers(4)))
    assert named > 10


def test_the_tour_shows_every_object_from_its_own_cell():
    env = TreasureMaze(tour=True)
    observation, _ = env.reset(seed=0)
    met = []
    for _ in range(env.rules.objects):
        wanted, seen = decoded(env.rules, observation)
        assert wanted is None
        met += [k for k, at in seen.items() if at == env.rules.view**2 // 2]
        observation, reward, *_ = env.step(3)
        assert reward == 0
    assert sorted(met) == list(range(env.rules.objects))
    assert decoded(env.rules, observation)[0] is not None


def test_fetching_pays_wants_another_and_moves_the_agent():
    env = TreasureMaze(side=9, shaping=0.25)
    env.reset(seed=0)
    goal, wanted = int(env.spots[env.wanted]), env.wanted
    neighbours = [
        (cell, a) for cell in env.rules.maze.free for a in range(4) if env.rules.maze.step_to[cell, a] == goal
    ]
    env.cell, action = next((int(cell), a) for cell, a in neighbours if cell != goal)
    observation, reward, _, _, info = env.step(action)
    assert reward == 1.25
    assert observation[-1] == 1
    assert info["fetched"] == 1
    assert env.wanted != wanted
    assert env.cell != env.spots[env.wanted]


def test_shaping_adds_up_to_the_way_made_and_is_not_seen():
    plain, shaped = TreasureMaze(), TreasureMaze(shaping=0.5)
    (first, _), (second, _) = (env.reset(seed=3) for env in (plain, shaped))
    far = shaped.rules.distances
    start, rng, total = int(far[shaped.cell, shaped.spots[shaped.wanted]]), np.random.default_rng(0), 0.0
    for _ in range(8):
        action = int(rng.integers(4))
        first, reward, _, _, info = plain.step(action)
        second, reward_shaped, *_ = shaped.step(action)
        assert np.array_equal(first, second)
        assert info["fetched"] == 0
        total += reward_shaped - reward
    assert total == 0.5 * (start - far[shaped.cell, shaped.spots[shaped.wanted]])


def test_patience_ends_a_search_in_vain():
    env = TreasureMaze(patience=5, tour=True, view=1)
    env.reset(seed=1)
    for _ in range(env.rules.tour_steps):
        env.step(0)
    wanted = [env.wanted]
    for _ in range(20):
        env.cell = next(
            int(cell) for cell in env.rules.maze.free if env.rules.distances[cell, env.spots[env.wanted]] > 2
        )
        _, reward, *_ = env.step(0)
        assert reward == 0
        wanted.append(env.wanted)
    changes = [before != after for before, after in pairwise(wanted)]
    assert changes == [False, False, False, False, True] * 4


def test_wanted_seen_asks_for_nothing_new_while_two_are_known():
    rules = Rules(9, 5, False, True, 3, 100, "seen", False)
    rng, spots = np.random.default_rng(0), np.array([10, 11, 12, 13, 14])
    known = np.array([True, False, True, False, False])
    assert {rules.next(0, known, spots, rng)[0] for _ in range(20)} == {2}
    assert {rules.next(0, np.eye(5, dtype=bool)[0], spots, rng)[0] for _ in range(60)} == {1, 2, 3, 4}


def test_picture_and_gymnasium_checker():
    env = TreasureMaze(render_mode="rgb_array")
    check_env(env, skip_render_check=True)
    env.reset(seed=0)
    picture = env.render()
    assert picture is not None
    row, column = divmod(int(env.spots[env.wanted]), 9)
    assert tuple(picture[row * TILE + 2, column * TILE + 2]) == RED


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"side": 8}, "side"),
        ({"objects": 1}, "objects of the treasure maze must be a whole number from 2 to 48"),
        ({"view": 2}, "view of the treasure maze must be odd"),
        ({"wanted": "all"}, "any or seen"),
        ({"tour": True, "max_steps": 8}, "exceed the 8 steps"),
        ({"shaping": -1.0}, "shaping"),
    ],
)
def test_faults_are_named(kwargs, message):
    with pytest.raises(envs.UserError, match=message):
        TreasureMaze(**kwargs)
