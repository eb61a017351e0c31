"""Players written by hand: who remembers comes close to who knows, and beats who forgets; random play earns little."""

from __future__ import annotations

import pytest

import envs
from benchmarks.players import RandomPlayer, islands, returns_of
from benchmarks.players.treasure import Forgets, Knows, Remembers
from envs.island_graph import IslandGraph
from envs.treasure_maze import TreasureMaze

EPISODES = 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kwargs", "least"),
    [
        ({"tour": True}, 24.0),
        ({}, 24.0),
        ({"tour": True, "view": 1}, 24.0),
        ({"side": 11, "pillars": True}, 14.0),
    ],
)
def test_treasure_players_stand_in_the_order_of_what_they_know(kwargs, least):
    env = TreasureMaze(**kwargs)
    random, forgets, remembers, knows = (
        returns_of(player, env, EPISODES).mean()
        for player in (RandomPlayer(4), Forgets(env.rules), Remembers(env.rules), Knows(env))
    )
    assert random < 3
    if not env.rules.pillars:
        assert random < forgets < 0.6 * remembers
    assert least < remembers <= knows + 1e-9
    # After the tour nothing is left to be found.
    assert (remembers == knows) == env.rules.tour


def test_a_straight_walk_takes_the_mean_distance():
    env = TreasureMaze(side=9)
    free = env.rules.maze.free
    mean = env.rules.distances[free][:, free].sum() / (free.size * (free.size - 1))
    assert mean == pytest.approx(2 * 7 / 3)
    returns = returns_of(Knows(env), env, 40)
    assert returns.mean() == pytest.approx(128 / mean, rel=0.05)


def test_players_need_their_place():
    with pytest.raises(envs.UserError, match="place"):
        Remembers(TreasureMaze(place=False).rules)


@pytest.mark.slow
def test_island_players_reach_the_published_figures():
    env = IslandGraph()
    random, remembers, knows = (
        returns_of(player, env, 60).mean()
        for player in (RandomPlayer(3), islands.Remembers(env), islands.Knows(env))
    )
    assert random == pytest.approx(45, abs=5)  # untrained agents
    assert knows == pytest.approx(171.6, abs=5)  # the reference that knows the graph
    assert remembers == pytest.approx(114, abs=6)
