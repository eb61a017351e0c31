"""The Grid World maze: layout, rules, observation, calibration returns, and the vectorised form against the single."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

import envs
from envs.maze import GridMaze
from envs.maze_layout import ACTIONS, Layout, layout
from envs.maze_vector import GridMazeVector
from envs.render import FREE, ORANGE, RED, WALL

UP, DOWN, LEFT, RIGHT = range(4)


def distances(maze: Layout) -> dict[int, dict[int, int]]:
    """Shortest path lengths between all free cells, by breadth-first search from every cell."""
    table = {}
    for start in maze.free.tolist():
        found, queue = {start: 0}, deque([start])
        while queue:
            cell = queue.popleft()
            for target in maze.step_to[cell].tolist():
                if target not in found:
                    found[target] = found[cell] + 1
                    queue.append(target)
        table[start] = found
    return table


def oracle_table(maze: Layout) -> np.ndarray:
    """[S * S goal, S * S cell] an action on a shortest path to the goal."""
    size = maze.side**2
    table = np.zeros((size, size), dtype=np.int64)
    path = distances(maze)
    for goal in maze.free.tolist():
        for cell in maze.free.tolist():
            lengths = [path[goal][target] for target in maze.step_to[cell].tolist()]
            table[goal, cell] = int(np.argmin(lengths))
    return table


@pytest.mark.parametrize(
    ("side", "pillars", "free", "views", "mean", "longest"),
    [(9, 8, 41, 23, 4.88, 12), (11, 16, 65, 15, 6.27, 16), (13, 24, 97, 24, 7.56, 20)],
)
def test_layout_has_the_published_counts(
    side: int, pillars: int, free: int, views: int, mean: float, longest: int
) -> None:
    maze = layout(side)
    assert maze.walls[1:-1, 1:-1].sum() == pillars
    assert maze.free.size == (~maze.walls).sum() == free
    assert len(np.unique(maze.views[maze.free], axis=0)) == views
    between = [d for found in distances(maze).values() for d in found.values() if d > 0]
    assert len(between) == free * (free - 1), "every free cell can be reached"
    assert round(float(np.mean(between)), 2) == mean
    assert max(between) == longest


def test_layout_of_side_9_is_the_printed_one() -> None:
    rows = ["#########", "#.......#", "#.#.#.#.#", "#.......#", "#.#...#.#"]
    rows += rows[3::-1]
    expected = np.array([[cell == "#" for cell in row] for row in rows])
    np.testing.assert_array_equal(layout(9).walls, expected)


@pytest.mark.parametrize("side", [8, 3, -1, "9", 9.0, True])
def test_side_that_is_not_an_odd_number_is_refused(side: Any) -> None:
    with pytest.raises(envs.UserError, match="odd number of at least 5"):
        GridMaze(side=side)


@pytest.mark.parametrize("kwargs", [{"max_steps": 0}, {"goal_reward": 0.0}, {"bump_penalty": -0.1}])
def test_settings_without_meaning_are_refused(kwargs: dict[str, Any]) -> None:
    for form in (GridMaze, GridMazeVector):
        with pytest.raises(envs.UserError, match=next(iter(kwargs))):
            form(**kwargs)


def test_registered_ids_and_gymnasium_checker() -> None:
    for side in (9, 11, 13):
        assert gymnasium.make(f"mnm/GridMaze{side}-v0").unwrapped.walls.shape == (side, side)
    env = gymnasium.make("mnm/GridMaze-v0", side=11, render_mode="rgb_array")
    assert env.spec is not None
    assert env.spec.max_episode_steps is None, "the maze keeps its own time limit"
    check_env(env.unwrapped)


def chi_square_is_plausible(counts: np.ndarray) -> bool:
    """Whether counts agree with a uniform distribution: chi-square within 4 standard deviations of its mean."""
    expected = counts.sum() / counts.size
    chi2 = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    return bool(abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom))


def test_goal_is_uniform_and_never_at_the_centre() -> None:
    env = GridMaze(side=9)
    env.reset(seed=0)
    counts = np.zeros(81)
    for _ in range(8000):
        env.reset()
        assert env.agent_position == (4, 4)
        counts[env.goal] += 1
    assert counts[env.maze.centre] == 0
    assert counts[env.walls.ravel()].sum() == 0
    assert chi_square_is_plausible(counts[counts > 0])
    assert (counts > 0).sum() == 40


def test_teleport_is_uniform_and_never_on_the_goal() -> None:
    env = GridMaze(side=9, max_steps=10**9)
    env.reset(seed=1)
    env.goal = 1 * 9 + 2
    counts = np.zeros(81)
    for _ in range(8000):
        env.cell = 1 * 9 + 1
        _, reward, *_ = env.step(RIGHT)
        assert reward == 10.0
        counts[env.cell] += 1
    assert counts[env.goal] == 0
    assert (counts > 0).sum() == 40
    assert chi_square_is_plausible(counts[counts > 0])


def test_moves_and_bumps() -> None:
    env = GridMaze(side=9, bump_penalty=0.1)
    env.reset(seed=0)
    env.goal = 7 * 9 + 7
    for action, position in [(UP, (3, 4)), (LEFT, (3, 3)), (DOWN, (4, 3)), (RIGHT, (4, 4))]:
        _, reward, *_ = env.step(action)
        assert (env.agent_position, reward) == (position, 0.0)
    env.cell = 1 * 9 + 1
    for action in (UP, LEFT):
        _, reward, *_ = env.step(action)
        assert (env.agent_position, reward) == ((1, 1), -0.1)
    env.cell = 3 * 9 + 2
    _, reward, *_ = env.step(UP)
    assert (env.agent_position, reward) == ((3, 2), -0.1), "a pillar is a wall"


def test_observation_at_the_start_after_a_bump_and_after_a_hit() -> None:
    env = GridMaze(side=9, max_steps=50, bump_penalty=0.5, previous_reward_scale=0.1)
    first, info = env.reset(seed=3)
    window = [0, 0, 0, 0, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(first, np.array([*window, 0, 1, 0, 0, 1, 0, 0, 0], np.float32))
    assert info == {"goals": 0}

    env.goal, env.cell = 3 * 9 + 1, 1 * 9 + 1
    bumped, *_ = env.step(LEFT)
    window = [1, 1, 1, 1, 0, 0, 1, 0, 1]
    np.testing.assert_array_equal(bumped, np.array([*window, 0, 1, 1 / 50, -0.05, 0, 0, 1, 0], np.float32))

    env.cell = 2 * 9 + 1
    hit, reward, terminated, truncated, info = env.step(DOWN)
    row, column = env.agent_position
    assert (row, column) != (3, 1), "the observation is the one after the teleport"
    window = env.walls[row - 1 : row + 2, column - 1 : column + 2].ravel().astype(int).tolist()
    np.testing.assert_array_equal(hit, np.array([*window, 0, 1, 2 / 50, 1.0, 0, 1, 0, 0], np.float32))
    assert (reward, terminated, truncated, info) == (10.0, False, False, {"goals": 1})
    assert env.observation_space.contains(hit)
    assert env.observation_space.contains(bumped)


def test_goal_is_never_visible() -> None:
    env = GridMaze(side=9)
    seen = set()
    for seed in range(200):
        observation, _ = env.reset(seed=seed)
        seen.add(observation.tobytes())
    assert len(seen) == 1


def test_time_limit_is_exact() -> None:
    env = GridMaze(side=9, max_steps=7)
    env.reset(seed=0)
    ends = [env.step(UP)[2:4] for _ in range(7)]
    assert ends == [(False, False)] * 6 + [(False, True)]


def test_same_seed_same_trajectory() -> None:
    def run(seed: int) -> bytes:
        env, rng = GridMaze(side=11), np.random.default_rng(0)
        rows = [env.reset(seed=seed)[0]]
        rows += [env.step(int(rng.integers(4)))[0] for _ in range(400)]
        return np.stack(rows).tobytes()

    assert run(5) == run(5)
    assert run(5) != run(6)


@pytest.mark.slow
def test_native_equals_single_mazes_over_10_000_steps() -> None:
    kwargs: dict[str, Any] = {"side": 9, "max_steps": 37, "bump_penalty": 0.1}
    native = gymnasium.make_vec("mnm/GridMaze-v0", num_envs=8, **kwargs)
    assert isinstance(native, GridMazeVector)
    single = SyncVectorEnv([lambda: GridMaze(**kwargs)] * 8, autoreset_mode="SameStep")
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(native.reset(seed=11)[0], single.reset(seed=11)[0])
    for step in range(10_000):
        actions = rng.integers(4, size=8)
        got, expected = native.step(actions), single.step(actions)
        for one, other in zip(got[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"step {step}")
            assert one.dtype == other.dtype
        assert set(got[4]) == set(expected[4])
        np.testing.assert_array_equal(got[4]["goals"], expected[4]["goals"])
        if "final_obs" in expected[4]:
            np.testing.assert_array_equal(got[4]["_final_obs"], expected[4]["_final_obs"])
            np.testing.assert_array_equal(got[4]["final_info"]["goals"], expected[4]["final_info"]["goals"])
            for one, other in zip(got[4]["final_obs"], expected[4]["final_obs"], strict=True):
                np.testing.assert_array_equal(one, other)
        if step == 5000:  # a reset in the middle, without a seed, goes on with the generators
            np.testing.assert_array_equal(native.reset()[0], single.reset()[0])
            np.testing.assert_array_equal(native.goal_cells, [env.unwrapped.goal for env in single.envs])


def test_native_seeds_like_sync() -> None:
    native, single = GridMazeVector(3), SyncVectorEnv([GridMaze] * 3, autoreset_mode="SameStep")
    for seed in (4, [9, 8, 7], [1, None, 2], None):
        native.reset(seed=seed)
        single.reset(seed=seed)
        assert native.goal_cells.tolist() == [env.unwrapped.goal for env in single.envs]
    with pytest.raises(ValueError, match="expected 3 seeds"):
        native.reset(seed=[1, 2])


def test_native_state_survives_json_exactly() -> None:
    one, other = GridMazeVector(5, max_steps=23), GridMazeVector(5, max_steps=23)
    rng = np.random.default_rng(0)
    one.reset(seed=0)
    for _ in range(50):
        one.step(rng.integers(4, size=5))
    other.set_state(json.loads(json.dumps(one.get_state())))
    for _ in range(200):
        actions = rng.integers(4, size=5)
        for a, b in zip(one.step(actions)[:4], other.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="holds 5 mazes"):
        GridMazeVector(4).set_state(one.get_state())


def native_returns(side: int, episodes: int, oracle: bool, **kwargs: Any) -> np.ndarray:
    """Returns of one whole episode in each of `episodes` native mazes."""
    env = GridMazeVector(episodes, side=side, **kwargs)
    env.reset(seed=123)
    table, rng = oracle_table(env.maze), np.random.default_rng(0)
    total = np.zeros(episodes)
    for _ in range(env.max_steps):
        actions = table[env.goal_cells, env.cells] if oracle else rng.integers(ACTIONS, size=episodes)
        total += env.step(actions)[1]
    return total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "kwargs", "oracle", "random"),
    [
        (11, {}, 324.2, 7.7),
        (13, {}, 269.6, 5.4),
        (11, {"max_steps": 250, "bump_penalty": 0.1}, 405.3, -0.1),
        (9, {"max_steps": 250, "bump_penalty": 0.1}, 520.4, 8.7),
        (9, {"goal_reward": 1.0, "bump_penalty": 0.05}, 41.6, -2.1),
    ],
)
def test_oracle_and_random_policy_reach_the_derived_returns(
    side: int, kwargs: dict[str, Any], oracle: float, random: float
) -> None:
    episodes = 2000
    for returns, expected in (
        (native_returns(side, episodes, True, **kwargs), oracle),
        (native_returns(side, episodes, False, **kwargs), random),
    ):
        standard_error = returns.std() / np.sqrt(episodes)
        assert (
            abs(returns.mean() - expected) < 4 * standard_error + 0.05
        )  # 0.05: the expected values are rounded


@pytest.mark.slow
def test_spread_of_returns_is_the_published_one() -> None:
    assert native_returns(11, 2000, True).std() == pytest.approx(55, rel=0.1)
    assert native_returns(11, 2000, False).std() == pytest.approx(9.4, rel=0.15)


def test_rendering_shows_agent_goal_walls_and_view() -> None:
    env = gymnasium.make("mnm/GridMaze9-v0", render_mode="rgb_array")
    env.reset(seed=0)
    maze: Any = env.unwrapped
    image: Any = env.render()
    tile = image.shape[0] // 9
    assert image.shape == (9 * tile, 9 * tile, 3)
    assert image.dtype == np.uint8

    def colour(cell: tuple[int, int]) -> tuple[int, ...]:
        return tuple(int(c) for c in image[cell[0] * tile + tile // 2, cell[1] * tile + tile // 2])

    assert colour(maze.agent_position) == ORANGE
    assert colour(maze.goal_position) == RED
    assert colour((0, 0)) == WALL
    assert colour((1, 1)) == FREE
    assert colour((3, 3)) not in (WALL, FREE), "the field of view is shaded"
    assert len(np.unique(image.reshape(-1, 3), axis=0)) < 12, "flat colours"
    assert gymnasium.make("mnm/GridMaze9-v0").unwrapped.render() is None
