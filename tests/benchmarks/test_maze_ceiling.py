"""The player with a perfect memory: its plans are shortest walks, and it knows no more than it has seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies import maze_ceiling
from benchmarks.studies.maze_ceiling import Player, after_teleport, plan, play, tour
from envs import held_out_seed
from envs.maze import GridMaze
from envs.maze_layout import Layout, layout


@pytest.fixture(scope="module")
def player() -> Player:
    return Player(layout(9))


def mean_distance(maze: Layout, goal: int) -> float:
    """Mean shortest path to the goal from every other cell, by relaxation."""
    far = dict.fromkeys(maze.free.tolist(), 10**6)
    far[goal] = 0
    for _ in far:
        for cell in far:
            far[cell] = min(far[cell], 1 + min(far[target] for target in maze.step_to[cell].tolist()))
    return sum(far.values()) / (len(far) - 1)


def test_where_every_cell_looks_different_the_plan_is_the_shortest_path() -> None:
    maze = layout(5)
    assert len({view.tobytes() for view in maze.views[maze.free]}) == maze.free.size
    for goal in maze.free.tolist():
        assert plan(maze, goal).steps_per_goal == pytest.approx(mean_distance(maze, goal))


@pytest.mark.slow
@pytest.mark.parametrize("side", [9, 11])
def test_nobody_beats_knowing_the_cell(side: int) -> None:
    maze = layout(side)
    goals = maze.free.tolist()[:12]
    blind = np.array([plan(maze, goal).steps_per_goal for goal in goals])
    seeing = np.array([mean_distance(maze, goal) for goal in goals])
    assert (blind >= seeing - 1e-6).all()  # equal where two views on the way tell the cell
    assert blind.mean() > seeing.mean()


def test_the_plan_takes_as_long_as_it_says(player: Player) -> None:
    maze, goal = player.maze, int(player.maze.free[3])
    found, taken = player.plans[goal], []
    for start in set(maze.free.tolist()) - {goal}:
        cell, steps, possible = start, 0, after_teleport(maze, goal)
        while cell != goal:
            (belief,) = [each for each in possible if cell in each]
            action = found.action[belief]
            cell, steps = int(maze.step_to[cell, action]), steps + 1
            possible = maze_ceiling.successors(maze, belief, action, goal)
        taken.append(steps)
    assert np.mean(taken) == pytest.approx(found.steps_per_goal, abs=1e-6)


def test_a_tour_comes_through_every_cell() -> None:
    maze = layout(11)
    actions, mean = tour(maze, np.random.default_rng(0))
    cell, first = maze.centre, {}
    for step, action in enumerate(actions, start=1):
        cell = int(maze.step_to[cell, action])
        first.setdefault(cell, step)
    first.pop(maze.centre, None)
    assert len(first) == maze.free.size - 1
    assert mean == pytest.approx(np.mean(list(first.values())))


def test_the_player_is_where_it_believes_to_be(player: Player) -> None:
    env = GridMaze(9)
    for episode in range(20):
        env.reset(seed=held_out_seed(0, episode))
        player.start()
        for _ in range(200):
            action = player.act()
            observation, *_ = env.step(action)
            player.see(action, observation)
            assert env.cell in player.belief
        assert player.goal == env.goal


@pytest.mark.slow
def test_returns_agree_with_the_plan(player: Player) -> None:
    # After the search, a goal every 5.12 steps in the mean: (200 - 21.65) / 5.12 goals and the first one.
    goals = [goal for goal in player.plans if goal != player.maze.centre]
    expected = np.mean(
        [1 + (200 - player.search_steps) / player.plans[goal].steps_per_goal for goal in goals]
    )
    assert play(player, 300).mean() / 10 == pytest.approx(expected, rel=0.04)


def test_the_table_is_printed_from_the_csv(capsys: pytest.CaptureFixture[str]) -> None:
    assert maze_ceiling.main(["--summary"]) == 0
    page = capsys.readouterr().out
    assert Path(maze_ceiling.RESULTS).is_file()
    assert "| 11 | 225" in page
