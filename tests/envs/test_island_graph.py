"""The island graph: its forms agree, graphs follow the published rules, and errands come as its docstring says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from native_forms import assert_equals_single_form, assert_snapshot_continues

import envs
from envs.island_graph import (
    FIXED_GRAPHS,
    NO_WAY,
    IslandGraph,
    Rules,
    draw_graphs,
    fixed_graphs,
    is_connected,
)
from envs.seeds import held_out_seed

SETTINGS: list[dict[str, Any]] = [
    {},
    {"graphs": "fixed", "max_steps": 20},
    {"islands": 7, "transports": 4, "max_steps": 9},
    {"islands": 3, "names": 5},
    {"islands": 4, "names": 6, "graphs": "fixed"},
]


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", SETTINGS)
def test_native_form_equals_single_environments_step_by_step(kwargs):
    assert_equals_single_form("mnm/IslandGraph-v0", kwargs, steps=300)


@pytest.mark.parametrize("kwargs", SETTINGS)
def test_a_snapshot_continues_exactly(kwargs):
    assert_snapshot_continues("mnm/IslandGraph-v0", kwargs)


def can_go_everywhere(graph: np.ndarray, start: int) -> bool:
    seen, waiting = {start}, [start]
    while waiting:
        for reached in graph[waiting.pop()]:
            if reached != NO_WAY and reached not in seen:
                seen.add(int(reached))
                waiting.append(int(reached))
    return len(seen) == len(graph)


def test_graphs_have_two_ways_per_island_and_lead_everywhere():
    graphs = draw_graphs(5, 3, 200, np.random.default_rng(0))
    assert graphs.shape == (200, 5, 3)
    assert (graphs != NO_WAY).sum(axis=(1, 2)).tolist() == [10] * 200
    assert not (graphs == np.arange(5)[:, None]).any()
    assert all(can_go_everywhere(graph, start) for graph in graphs for start in range(5))
    assert not is_connected(np.array([[[1, 2], [0, NO_WAY], [NO_WAY, NO_WAY]]]))[0]


def test_islands_have_names_drawn_from_all_and_nothing_leads_elsewhere():
    env = IslandGraph(islands=3, names=5)
    found, rng = set(), np.random.default_rng(0)
    for seed in range(40):
        observation, _ = env.reset(seed=seed)
        there = np.flatnonzero((env.graph != NO_WAY).any(axis=1))
        assert observation.shape == env.observation_space.shape == (16,)
        assert len(there) == 3
        assert set(env.graph[env.graph != NO_WAY]) == set(there)
        found.add(tuple(there.tolist()))
        for _ in range(29):
            observation = env.step(int(rng.integers(3)))[0]
            assert int(observation[:5].argmax()) in there
            assert int(observation[5:10].argmax()) in there
    assert len(found) == 10, "every three of five names come up"


def test_a_renamed_graph_is_the_same_graph():
    rules = Rules(3, 3, 30, "fresh", 7)
    graph = draw_graphs(3, 3, 1, np.random.default_rng(1))[0]
    named = rules.named(graph, np.random.default_rng(2))
    there = np.flatnonzero((named != NO_WAY).any(axis=1))
    order = np.random.default_rng(2).permutation(7)[:3]
    assert sorted(order) == there.tolist()
    for island, by in np.ndindex(3, 3):
        reached = graph[island, by]
        assert named[order[island], by] == (NO_WAY if reached == NO_WAY else order[reached])


def test_fixed_graphs_differ_between_training_and_held_out_seeds():
    known = fixed_graphs(5, 3)
    assert len(np.unique(known, axis=0)) == 2 * FIXED_GRAPHS
    env = IslandGraph(graphs="fixed")
    for seed, first in ((3, 0), (held_out_seed(0, 3), FIXED_GRAPHS)):
        drawn = []
        env.reset(seed=seed)
        for _ in range(20):
            drawn += [n for n, graph in enumerate(known) if np.array_equal(graph, env.graph)]
            env.reset()
        assert len(drawn) == 20
        assert all(first <= number < first + FIXED_GRAPHS for number in drawn)


def test_rewards_errands_and_the_limit_of_waiting():
    env = IslandGraph()
    env.reset(seed=0)
    rng, rewards, redrawn, waited = np.random.default_rng(0), [], 0, 0
    for _ in range(400):
        target, position = env.target, env.position
        action = int(rng.integers(3))
        reached = int(env.graph[position, action])
        observation, reward, done, _, _ = env.step(action)
        rewards.append(reward)
        waited += 1
        assert (reward == -0.05) == (reached == NO_WAY)
        assert (reward == 10) == (reached == target)
        if reward == 10:
            assert env.target not in (target, env.position)
            waited = 0
        elif waited == 6:
            assert observation[10:14].tolist() == [0, 0, 0, 1]
            redrawn, waited = redrawn + 1, 0
        else:
            assert env.target == target
            assert env.position == (position if reached == NO_WAY else reached)
            assert observation[10 + action] == 1
        if done:
            env.reset()
            waited = 0
    assert redrawn > 5
    assert rewards.count(10.0) > 20


def test_needed_steps_told_where_the_next_way_leads():
    env, rng, named = IslandGraph(max_steps=60), np.random.default_rng(0), 0
    env.reset(seed=2)
    taken: dict[int, tuple[int, int]] = {}
    done = False
    while not done:
        position, action = env.position, int(rng.integers(3))
        _, _, done, _, info = env.step(action)
        taken[env.steps] = position, action
        far = env.distances()
        for step in info["needed_steps"]:
            start, by = taken[step]
            assert step < env.steps
            assert start == env.position
            assert far[env.graph[start, by]] == far[start] - 1
            named += 1
    assert named > 10


def test_picture_and_gymnasium_checker():
    env = IslandGraph(render_mode="rgb_array")
    check_env(env, skip_render_check=True)
    env.reset(seed=0)
    before = env.render()
    env.step(int((env.graph[env.position] != NO_WAY).argmax()))
    after = env.render()
    assert before is not None
    assert after is not None
    assert before.shape == after.shape
    assert not np.array_equal(before, after)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"islands": 2}, "islands"),
        ({"transports": 1}, "transports"),
        ({"graphs": "old"}, "fresh or fixed"),
        ({"names": 4}, "names of the island graph must be a whole number from 5"),
        ({"islands": "5"}, "not '5'"),
    ],
)
def test_faults_are_named(kwargs, message):
    with pytest.raises(envs.UserError, match=message):
        IslandGraph(**kwargs)


def test_too_few_graphs_for_the_fixed_protocol_are_named():
    with pytest.raises(envs.UserError, match="use graphs=fresh"):
        Rules(3, 2, 30, "fixed", None).draw(False, np.random.default_rng(0))
