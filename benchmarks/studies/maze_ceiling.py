"""How much can any memory earn in the Grid World maze? A player with a perfect one, written by hand.

    python -m benchmarks.studies.maze_ceiling                 play, write benchmarks/results/maze_ceiling.csv
    python -m benchmarks.studies.maze_ceiling --summary       print the table from the committed CSV

The oracle of the results page is told where the goal is, and sees where it is teleported to; no agent can know
either. This player gets the agents' observations. It knows the layout, as a trained agent does, and it
never forgets. Until its first goal it walks a fixed tour of all cells. From then on it knows the goal, and
after every teleport it keeps the set of cells at which it may be:

    V(S) = 1 + min_a  sum over S' of |S'| / |S| V(S')

S' are the sets into which the next view divides the cells that action a leads to, the goal left out (there
the walk ends). All cells of a set have the same view, so an action bumps in all of them or in none, no two of
them become one, and all stay equally likely. V is the least mean number of steps to the goal. What could be better:
the tour, and the last walk, which an episode's end may cut (less than 0.1% of the return where tried).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluation import bootstrap_interval
from agents.files import read_csv, write_csv
from agents.options import check_at_least, option, parse, run_command
from benchmarks.common import RESULTS_DIR, machine_columns, require_clean_tree
from envs import held_out_seed
from envs.maze import GridMaze
from envs.maze_layout import ACTIONS, VIEW_SIZE, Layout, layout

RESULTS = RESULTS_DIR / "maze_ceiling.csv"
PREVIOUS_REWARD = 12
"""Entry of the observation that is above 0 after a goal."""
TOURS = 300
"""Tours that are drawn; the one that finds a uniform goal soonest is walked."""
EXACT_TO = 1e-9
"""Change of every value below which the iteration has ended, in steps."""

Belief = frozenset[int]
"""Cells at which the player may be, all equally likely."""


@dataclass(frozen=True)
class CeilingConfig:
    """Options of the command."""

    episodes: int = option(2_000, "held-out episodes per side")
    summary: bool = option(False, "play nothing: print the table from the committed CSV", switch=True)

    def __post_init__(self) -> None:
        check_at_least(self, 1, "episodes")


def divide(maze: Layout, cells: Iterable[int]) -> list[Belief]:
    """The cells in groups that look alike."""
    alike = defaultdict(list)
    for cell in cells:
        alike[maze.views[cell].tobytes()].append(cell)
    return [frozenset(group) for group in alike.values()]


def successors(maze: Layout, belief: Belief, action: int, goal: int) -> list[Belief]:
    """What the player may believe after the action, unless it has reached the goal."""
    return divide(maze, {int(maze.step_to[cell, action]) for cell in belief} - {goal})


def after_teleport(maze: Layout, goal: int) -> list[Belief]:
    """What the player may believe after a teleport, which leads anywhere but to the goal."""
    return divide(maze, set(maze.free.tolist()) - {goal})


@dataclass(frozen=True)
class Plan:
    """The shortest walk to a known goal from every belief that can come up."""

    steps: dict[Belief, float]
    """V: mean number of steps to the goal."""
    action: dict[Belief, int]
    """What to do next."""
    steps_per_goal: float
    """V over a teleport."""


def plan(maze: Layout, goal: int) -> Plan:
    """Value iteration over all beliefs that a teleport can lead to."""
    starts = after_teleport(maze, goal)
    reached: dict[Belief, list[list[Belief]]] = {}
    waiting = list(starts)
    while waiting:
        belief = waiting.pop()
        if belief not in reached:
            reached[belief] = [successors(maze, belief, action, goal) for action in range(ACTIONS)]
            waiting += [after for each in reached[belief] for after in each]
    steps = dict.fromkeys(reached, 0.0)
    action = dict.fromkeys(reached, 0)
    change = 1.0
    while change > EXACT_TO:
        change = 0.0
        for belief, each in reached.items():
            costs = [
                1.0 + sum(len(after) * steps[after] for after in afters) / len(belief) for afters in each
            ]
            action[belief] = int(np.argmin(costs))
            change = max(change, abs(min(costs) - steps[belief]))
            steps[belief] = min(costs)
    mean = sum(len(start) * steps[start] for start in starts) / (maze.free.size - 1)
    return Plan(steps, action, mean)


def shortest_to_new(maze: Layout, start: int, seen: set[int], rng: np.random.Generator) -> list[int]:
    """The actions to the nearest cell not seen yet, ties broken at random."""
    came: dict[int, list[int]] = {start: []}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        if cell not in seen:
            return came[cell]
        for action in rng.permutation(ACTIONS).tolist():
            target = int(maze.step_to[cell, action])
            if target not in came:
                came[target] = [*came[cell], action]
                queue.append(target)
    return []


def tour(maze: Layout, rng: np.random.Generator) -> tuple[list[int], float]:
    """Actions from the centre through every cell, always to the nearest new one; mean step at which a cell is new."""
    cell, seen, actions = maze.centre, {maze.centre}, []
    first_seen = []
    while way := shortest_to_new(maze, cell, seen, rng):
        for action in way:
            cell = int(maze.step_to[cell, action])
        actions += way
        seen.add(cell)
        first_seen.append(len(actions))
    return actions, float(np.mean(first_seen))


class Player:
    """Plays one maze side from observations alone."""

    def __init__(self, maze: Layout) -> None:
        self.maze = maze
        self.plans = {goal: plan(maze, goal) for goal in maze.free.tolist()}
        self.tour, self.search_steps = min(
            (tour(maze, np.random.default_rng(seed)) for seed in range(TOURS)), key=lambda found: found[1]
        )
        self.start()

    def start(self) -> None:
        """A new episode: the player stands at the centre and has not found the goal."""
        self.goal: int | None = None
        self.belief: Belief = frozenset({self.maze.centre})
        self.walked = 0

    def act(self) -> int:
        """The next step of the tour, or of the shortest walk to the goal."""
        return self.tour[self.walked] if self.goal is None else self.plans[self.goal].action[self.belief]

    def see(self, action: int, observation: NDArray[np.float32]) -> None:
        """What the player knows after the action."""
        self.walked += 1
        if observation[PREVIOUS_REWARD] > 0:
            if self.goal is None:
                (cell,) = self.belief
                self.goal = int(self.maze.step_to[cell, action])
            possible = after_teleport(self.maze, self.goal)
        elif self.goal is None:
            (cell,) = self.belief
            possible = [frozenset({int(self.maze.step_to[cell, action])})]
        else:
            possible = successors(self.maze, self.belief, action, self.goal)
        view = observation[:VIEW_SIZE].tobytes()
        (self.belief,) = [each for each in possible if self.maze.views[min(each)].tobytes() == view]


def play(player: Player, episodes: int) -> NDArray[np.float64]:
    """Returns of the held-out episodes that evaluate.py plays."""
    env = GridMaze(player.maze.side)
    returns = np.zeros(episodes)
    for episode in range(episodes):
        env.reset(seed=held_out_seed(0, episode))
        player.start()
        truncated = False
        while not truncated:
            action = player.act()
            observation, reward, _, truncated, _ = env.step(action)
            player.see(action, observation)
            returns[episode] += reward
    return returns


def measure(side: int, episodes: int) -> dict[str, Any]:
    """One row of the CSV."""
    player = Player(layout(side))
    returns = play(player, episodes)
    low, high = bootstrap_interval(returns)
    goals = [goal for goal in player.plans if goal != player.maze.centre]
    return {
        "side": side,
        "search_steps": round(player.search_steps, 2),
        # A search that never saw a cell twice would see one new cell at every step.
        "search_bound": round((len(goals) + 1) / 2, 2),
        "steps_per_goal": round(float(np.mean([player.plans[goal].steps_per_goal for goal in goals])), 3),
        "return": round(float(returns.mean()), 1),
        "low": round(low, 1),
        "high": round(high, 1),
        "episodes": episodes,
        **machine_columns(),
    }


def table() -> str:
    """A line per side, from the CSV."""
    lines = ["| side | return (95%) | steps to the first goal (no search can beat) | steps to every other |"]
    lines.append("|---|---|---|---|")
    for row in read_csv(RESULTS):
        lines.append(
            f"| {row['side']} | {row['return']} ({row['low']} to {row['high']}) | {row['search_steps']} "
            f"({row['search_bound']}) | {row['steps_per_goal']} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(CeilingConfig(), argv, description=__doc__ or "")
    if not config.summary:
        require_clean_tree()
        write_csv(RESULTS, [measure(side, config.episodes) for side in (9, 11, 13)])
    print(table())
    return 0


if __name__ == "__main__":
    run_command(main)
