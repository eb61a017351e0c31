"""Treasure maze (`mnm/TreasureMaze-v0`): remember where every object lies, and fetch the one that is wanted.

K objects lie on distinct random cells of a room, new in every episode. Stepping on the wanted object pays 1; then
another object is wanted and the agent is put on a random cell, as after `patience` steps in vain. There is no
terminal state, only a time limit. With a `tour` the agent is first carried past all objects, in a random order, one
per step: its actions then do nothing, and no object is wanted.

The observation, in this order (S the side with its ring of walls, V the side of the view, K objects):
    S-2      the row of the agent, one-hot (only with `place`)
    S-2      its column, one-hot (only with `place`)
    V*V*(K+1) every cell of the view, row by row: 1 = wall, then which object lies there, one-hot
    V*V      1 where the wanted object lies, 0 elsewhere in the view
    K        the wanted object, one-hot; 0 during the tour
    4        the previous action, one-hot; 0 at step 0
    1        1 if it fetched the wanted object
With `shaping` every step nearer to the wanted object pays as much, and every step away costs it. The agent does not
see that part of its reward: it helps to learn, and nobody can find an object by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import UserError
from envs.maze_layout import ACTIONS, Layout, layout, other_free_cell
from envs.native import Array, NativeVector
from envs.render import Cell, Image, draw_treasures, object_name

NOTHING = -1
"""No object is wanted."""
TILE = 56
"""Pixels of a cell in a picture."""


@dataclass(frozen=True)
class Rules:
    """The settings of the task, checked, and the tables that follow."""

    side: int
    """S, odd, the ring of walls included."""
    objects: int
    """K."""
    pillars: bool
    """The walls of the Grid World maze; without them an open room."""
    place: bool
    """Whether the agent sees its row and column."""
    view: int
    """V, odd: side of the square that the agent sees."""
    max_steps: int
    """Steps of an episode, those of the tour included."""
    wanted: str
    """any: the next object is any other; seen: any other that was in view or fetched, if there is one."""
    tour: bool
    """Whether the agent is first carried past all objects."""
    shaping: float = 0.0
    """What a step nearer to the wanted object pays, and one away from it costs."""
    patience: int = 0
    """Steps after which another object is wanted, though this one was not fetched; 0: no limit."""

    def __post_init__(self) -> None:
        limits = (
            ("patience", 0, 10**6),
            ("objects", 2, min(64, self.maze.free.size - 1)),
            ("view", 1, 2 * self.side),
            ("max_steps", 1, 10**6),
        )
        for name, low, high in limits:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise UserError(
                    f"{name} of the treasure maze must be a whole number from {low} to {high}, not {value!r}"
                )
        if self.view % 2 == 0:
            raise UserError(f"view of the treasure maze must be odd, not {self.view}")
        if self.wanted not in ("any", "seen"):
            raise UserError(f"wanted of the treasure maze must be any or seen, not {self.wanted!r}")
        if not 0.0 <= self.shaping <= 1.0:
            raise UserError(f"shaping of the treasure maze must lie in [0, 1], not {self.shaping!r}")
        if self.tour and self.max_steps <= self.objects:
            raise UserError(
                f"max_steps of the treasure maze must exceed the {self.objects} steps of the tour, not {self.max_steps}"
            )

    @cached_property
    def maze(self) -> Layout:
        """Walls and moves."""
        return layout(self.side, self.pillars)

    @cached_property
    def window(self) -> NDArray[np.int64]:
        """[S * S, V * V] the cells in view from a cell; beyond the ring, cell 0, which is a wall."""
        reach = self.view // 2
        numbers = np.pad(np.arange(self.side**2).reshape(self.side, self.side), reach)
        views = np.lib.stride_tricks.sliding_window_view(numbers, (self.view, self.view))
        return views.reshape(self.side**2, self.view**2).copy()

    @cached_property
    def distances(self) -> NDArray[np.int64]:
        """[S * S, S * S] steps of the shortest walk."""
        return self.maze.distances()

    @cached_property
    def marks(self) -> NDArray[np.float32]:
        """[K + 2, K + 1] what a cell looks like by its content: free, object 0, ..., object K - 1, wall."""
        marks = np.eye(self.objects + 2, self.objects + 1, dtype=np.float32)
        marks[0, 0], marks[self.objects + 1, 0] = 0.0, 1.0
        return marks

    @cached_property
    def places(self) -> NDArray[np.float32]:
        """[S * S, 2 (S - 2)] row and column of a cell, one-hot; [S * S, 0] where they are hidden."""
        inner = self.side - 2
        if not self.place:
            return np.zeros((self.side**2, 0), dtype=np.float32)
        row, column = np.divmod(np.arange(self.side**2), self.side)
        eye = np.pad(np.eye(inner, dtype=np.float32), ((1, 1), (0, 0)))
        return np.concatenate([eye[row], eye[column]], axis=1)

    @property
    def parts(self) -> tuple[int, int, int, int, int]:
        """Where view, mark, wanted object, previous action and success begin in the observation."""
        view = self.places.shape[1]
        mark = view + self.view**2 * (self.objects + 1)
        wanted = mark + self.view**2
        return view, mark, wanted, wanted + self.objects, wanted + self.objects + ACTIONS

    @property
    def space(self) -> spaces.Box:
        """The space of one observation."""
        return spaces.Box(0.0, 1.0, (self.parts[-1] + 1,), dtype=np.float32)

    @property
    def tour_steps(self) -> int:
        """Steps for which the agent is carried."""
        return self.objects if self.tour else 0

    def draw(self, rng: np.random.Generator) -> tuple[Array, Array, int, int]:
        """An episode: the cells of the objects, the order of the tour, the object wanted first, and the start."""
        spots = rng.choice(self.maze.free, self.objects, replace=False)
        order = rng.permutation(self.objects)
        wanted = int(rng.integers(self.objects))
        return spots, order, wanted, other_free_cell(self.maze, int(spots[wanted]), rng)

    def content(self, spots: Array) -> Array:
        """[S * S] what lies in every cell, as `marks` counts."""
        content = np.where(self.maze.walls.ravel(), self.objects + 1, 0).astype(np.int64)
        content[spots] = np.arange(1, self.objects + 1)
        return content

    def next(self, wanted: int, known: Array, spots: Array, rng: np.random.Generator) -> tuple[int, int]:
        """The object wanted after `wanted` was fetched or given up, and the cell on which the agent is put.

        `known`: [K] true for objects that were in view or fetched.
        """
        possible = np.flatnonzero(known) if self.wanted == "seen" else np.arange(self.objects)
        possible = possible[possible != wanted]
        if possible.size == 0:
            possible = np.delete(np.arange(self.objects), wanted)
        following = int(possible[rng.integers(possible.size)])
        return following, other_free_cell(self.maze, int(spots[following]), rng)


class TreasureMazeVector(NativeVector):
    """N treasure mazes side by side."""

    saved = ("spots", "content", "order", "starts", "cells", "wanted", "known", "waited", "steps")

    def __init__(
        self,
        num_envs: int = 1,
        side: int = 9,
        objects: int = 8,
        pillars: bool = False,
        place: bool = True,
        view: int = 3,
        max_steps: int = 128,
        wanted: str = "any",
        tour: bool = False,
        shaping: float = 0.0,
        patience: int = 0,
        render_mode: str | None = None,
    ) -> None:
        self.rules = Rules(side, objects, pillars, place, view, max_steps, wanted, tour, shaping, patience)
        super().__init__(num_envs, self.rules.space, ACTIONS, render_mode)
        self.spots = np.zeros((num_envs, objects), dtype=np.int64)
        self.content = np.zeros((num_envs, side * side), dtype=np.int64)
        self.order = np.zeros((num_envs, objects), dtype=np.int64)
        self.starts = np.zeros(num_envs, dtype=np.int64)
        self.cells = np.zeros(num_envs, dtype=np.int64)
        self.wanted = np.zeros(num_envs, dtype=np.int64)
        self.known = np.zeros((num_envs, objects + 2), dtype=np.bool_)
        """By content: the object with number k stands in column k + 1."""
        self.waited = np.zeros(num_envs, dtype=np.int64)
        """Steps for which the present object has been wanted."""
        self.steps = np.zeros(num_envs, dtype=np.int64)
        self._objects = np.concatenate([np.eye(objects), np.zeros((1, objects))]).astype(np.float32)
        self._moves = np.eye(ACTIONS, dtype=np.float32)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        actions, rules, rows = np.asarray(actions), self.rules, self.rows
        carried = self.steps < rules.tour_steps
        targets = rules.maze.step_to[self.cells, actions]
        goals = self.spots[rows, self.wanted]
        hits = (targets == goals) & ~carried
        rewards = hits.astype(np.float64)
        if rules.shaping:
            far = rules.distances
            rewards += rules.shaping * (far[self.cells, goals] - far[targets, goals]) * ~carried
        self.steps += 1
        self.cells = targets
        self.waited += ~carried
        over = hits | (self.waited == rules.patience) & ~carried if rules.patience else hits
        for i in np.flatnonzero(over):
            self.known[i, self.wanted[i] + 1] |= hits[i]
            self.wanted[i], self.cells[i] = rules.next(
                int(self.wanted[i]), self.known[i, 1:-1], self.spots[i], self.generators[i]
            )
        self.waited[over] = 0
        if carried.any():
            self._carry(np.flatnonzero(carried))
        observations = self._blank()
        self._show(rows, observations)
        action, fetched = rules.parts[-2:]
        observations[:, action:fetched] = self._moves[actions]
        observations[:, fetched] = hits
        truncated = self.steps >= rules.max_steps
        return self._close(observations, rewards, np.zeros_like(truncated), truncated)

    def _open(self, rows: Array, observations: Array) -> None:
        for i in rows:
            self.spots[i], self.order[i], self.wanted[i], self.starts[i] = self.rules.draw(self.generators[i])
            self.content[i] = self.rules.content(self.spots[i])
        self.known[rows] = False
        self.steps[rows] = self.waited[rows] = 0
        self._carry(rows)
        self._show(rows, observations)

    def _carry(self, rows: Array) -> None:
        """Put the agents where the tour leads at this step, or where they are let go."""
        steps = np.minimum(self.steps[rows], self.rules.objects - 1)
        shown = self.spots[rows, self.order[rows, steps]]
        self.cells[rows] = np.where(self.steps[rows] < self.rules.tour_steps, shown, self.starts[rows])

    def _show(self, rows: Array, observations: Array) -> None:
        """Write place, view and wanted object of some environments."""
        rules = self.rules
        view, mark, wanted, action, _ = rules.parts
        cells = self.cells[rows]
        seen = self.content.take(rules.window.take(cells, axis=0) + (rows * rules.side**2)[:, None])
        if rules.wanted == "seen":
            self.known[rows[:, None], seen] = True
        observations[rows, :view] = rules.places.take(cells, axis=0)
        observations[rows, view:mark] = rules.marks.take(seen, axis=0).reshape(rows.size, -1)
        objects = np.where(self.steps[rows] < rules.tour_steps, NOTHING, self.wanted[rows])
        observations[rows, mark:wanted] = seen == np.where(objects == NOTHING, NOTHING, objects + 1)[:, None]
        observations[rows, wanted:action] = self._objects[objects]


class TreasureMaze(gymnasium.Env[Any, Any]):
    """One treasure maze. Actions: 0 up, 1 down, 2 left, 3 right; walls stop the agent.

    `info["needed_steps"]` names the earlier steps at which the wanted object was in view; it is empty where there
    is none, where nothing is wanted, and where the object is in view now. `info["fetched"]` counts.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012
    action_names = ("up", "down", "left", "right")

    def __init__(
        self,
        side: int = 9,
        objects: int = 8,
        pillars: bool = False,
        place: bool = True,
        view: int = 3,
        max_steps: int = 128,
        wanted: str = "any",
        tour: bool = False,
        shaping: float = 0.0,
        patience: int = 0,
        render_mode: str | None = None,
    ) -> None:
        self.rules = Rules(side, objects, pillars, place, view, max_steps, wanted, tour, shaping, patience)
        self.render_mode = render_mode
        self.observation_space = self.rules.space
        self.action_space = spaces.Discrete(ACTIONS)
        self.spots, self.order, self.wanted, self.start = self.rules.draw(np.random.default_rng(0))
        self.content = self.rules.content(self.spots)
        self.known = np.zeros(objects, dtype=np.bool_)
        self.cell = self.start
        self.steps = self.fetched = self.waited = 0
        self.in_view: list[list[int]] = []
        """For every object, the steps at which it was in view."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._begin(self.np_random)
        return self._observe(None, 0.0), self._info()

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        rules, reward, fetched = self.rules, 0.0, self.fetched
        carried = self.steps < rules.tour_steps
        self.steps += 1
        if self.steps < rules.tour_steps:
            self.cell = int(self.spots[self.order[self.steps]])
        elif carried:
            self.cell = self.start
        else:
            before, goal = self.cell, self.spots[self.wanted]
            self.cell = int(rules.maze.step_to[self.cell, action])
            if rules.shaping:
                reward = rules.shaping * float(
                    rules.distances[before, goal] - rules.distances[self.cell, goal]
                )
            if self.cell == goal:
                reward += 1.0
                self.fetched += 1
                self.known[self.wanted] = True
            self.waited += 1
            if self.cell == goal or self.waited == rules.patience:
                self.wanted, self.cell = rules.next(self.wanted, self.known, self.spots, self.np_random)
                self.waited = 0
        self._look()
        observation = self._observe(int(action), float(self.fetched > fetched))
        return observation, reward, False, self.steps >= rules.max_steps, self._info()

    def render(self) -> Image | None:
        if self.render_mode != "rgb_array":
            return None
        side = self.rules.side
        objects = [divmod(int(spot), side) for spot in self.spots]
        wanted = None if self.steps < self.rules.tour_steps else self.wanted
        return draw_treasures(self.walls, self.agent_position, self.view_cells, objects, wanted, tile=TILE)

    def observation_words(self) -> str:
        """What is in view now, for the recalls."""
        seen = [
            object_name(number)
            for number, steps in enumerate(self.in_view)
            if steps and steps[-1] == self.steps
        ]
        return ", ".join(seen) or "no object"

    @property
    def walls(self) -> NDArray[np.bool_]:
        """[S, S], for whoever draws on the picture."""
        return self.rules.maze.walls

    @property
    def agent_position(self) -> Cell:
        """(row, column), for whoever draws on the picture."""
        return divmod(self.cell, self.rules.side)

    @property
    def view_cells(self) -> list[Cell]:
        """The (row, column) cells that the agent sees, without those beyond the ring."""
        row, column = divmod(self.cell, self.rules.side)
        reach = range(-(self.rules.view // 2), self.rules.view // 2 + 1)
        cells = [(row + down, column + right) for down in reach for right in reach]
        return [cell for cell in cells if min(cell) >= 0 and max(cell) < self.rules.side]

    def _begin(self, rng: np.random.Generator) -> None:
        self.spots, self.order, self.wanted, self.start = self.rules.draw(rng)
        self.content = self.rules.content(self.spots)
        self.steps = self.fetched = self.waited = 0
        self.known[:] = False
        self.in_view = [[] for _ in self.spots]
        self.cell = int(self.spots[self.order[0]]) if self.rules.tour else self.start
        self._look()

    def _look(self) -> None:
        """Take note of what is in view."""
        seen = self.content[self.rules.window[self.cell]]
        for k in seen[(seen > 0) & (seen <= self.rules.objects)].tolist():
            self.known[k - 1] = True
            self.in_view[k - 1].append(self.steps)

    def _info(self) -> dict[str, Any]:
        steps = self.in_view[self.wanted]
        nothing = self.steps < self.rules.tour_steps or (steps and steps[-1] == self.steps)
        return {"needed_steps": () if nothing else tuple(steps), "fetched": self.fetched}

    def _observe(self, action: int | None, fetched: float) -> NDArray[np.float32]:
        rules = self.rules
        one_hot = np.zeros(rules.objects)
        if self.steps >= rules.tour_steps:
            one_hot[self.wanted] = 1.0
        moved = np.zeros(ACTIONS)
        if action is not None:
            moved[action] = 1.0
        seen = self.content[rules.window[self.cell]]
        mark = (seen == self.wanted + 1) & (self.steps >= rules.tour_steps)
        parts = (rules.places[self.cell], rules.marks[seen].ravel(), mark, one_hot, moved, [fetched])
        return np.concatenate(parts).astype(np.float32)
