"""Three players of the treasure maze: one forgets, one remembers all that it saw, one is told where everything lies.

All walk straight to the wanted object as soon as they know its cell. Until then the one that remembers walks to
where it sees most new cells per step; the one that forgets walks a fixed route up and down the room, which needs
no more than its place and previous action.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from benchmarks.players import Observation
from envs.errors import UserError
from envs.maze_layout import ACTIONS
from envs.treasure_maze import Rules, TreasureMaze

UP, DOWN, LEFT, RIGHT = range(ACTIONS)
BACK = {UP: DOWN, DOWN: UP, LEFT: RIGHT, RIGHT: LEFT}


class Walker:
    """What the three share: reading observations, and walking straight to a cell."""

    def __init__(self, rules: Rules) -> None:
        if not rules.place:
            raise UserError("the players of the treasure maze read their place, which place=False hides")
        self.rules = rules
        self.far = rules.distances
        self.cell = rules.maze.centre
        self.wanted: int | None = None
        self.spots: dict[int, int] = {}
        """The cells of the objects that it knows."""

    def start(self, observation: Observation) -> None:
        self.spots = {}
        self.read(observation)

    def act(self) -> int:
        if self.wanted in self.spots:
            return self.toward(self.spots[self.wanted])
        return UP if self.wanted is None else self.search()

    def see(self, action: int, reward: float, observation: Observation) -> None:
        if observation[-1] > 0.0 and self.wanted is not None:
            self.spots[self.wanted] = int(self.rules.maze.step_to[self.cell, action])
        self.read(observation)

    def read(self, observation: Observation) -> None:
        """Take place, wanted object and objects in view from an observation."""
        rules = self.rules
        view, mark, wanted, action, _ = rules.parts
        row, column = observation[:view].reshape(2, -1).argmax(axis=1) + 1
        self.cell = int(row * rules.side + column)
        asked = observation[wanted:action]
        self.wanted = int(asked.argmax()) if asked.any() else None
        for at, number in np.argwhere(observation[view:mark].reshape(rules.view**2, -1)[:, 1:]):
            self.spots[int(number)] = int(rules.window[self.cell, at])

    def toward(self, target: int) -> int:
        """The first action of a shortest walk."""
        return int(self.far[self.rules.maze.step_to[self.cell], target].argmin())

    def search(self) -> int:
        """What to do while the cell of the wanted object is not known."""
        raise NotImplementedError


class Knows(Walker):
    """Is told the cells of all objects by the environment."""

    def __init__(self, env: TreasureMaze) -> None:
        super().__init__(env.rules)
        self.env = env

    def read(self, observation: Observation) -> None:
        super().read(observation)
        self.spots = {number: int(spot) for number, spot in enumerate(self.env.spots)}


class Remembers(Walker):
    """Reads observations alone, and forgets nothing: neither objects nor which cells were empty."""

    def start(self, observation: Observation) -> None:
        self.unseen = np.zeros(self.rules.side**2, dtype=np.bool_)
        self.unseen[self.rules.maze.free] = True
        super().start(observation)

    def read(self, observation: Observation) -> None:
        super().read(observation)
        self.unseen[self.rules.window[self.cell]] = False

    def search(self) -> int:
        new = self.unseen[self.rules.window[self.rules.maze.free]].sum(axis=1)
        steps = self.far[self.cell, self.rules.maze.free]
        return self.toward(int(self.rules.maze.free[(new / np.maximum(steps, 1) * (steps > 0)).argmax()]))


class Forgets(Walker):
    """Knows nothing but the present observation; its route is made for open rooms."""

    @cached_property
    def route(self) -> list[int]:
        """Cells of a walk that brings every cell into view: row by row, as far apart as the view allows."""
        side, reach = self.rules.side, self.rules.view // 2
        near, end = 1 + reach, side - 2 - reach
        if near >= end:
            return [self.rules.maze.centre]
        lanes = [*range(near, end, self.rules.view), end]
        route: list[int] = []
        for number, row in enumerate(lanes):
            if route:
                step = side if row * side > route[-1] else -side
                while route[-1] // side != row:
                    route.append(route[-1] + step)
                route.pop()
            columns = range(near, end + 1) if number % 2 == 0 else range(end, near - 1, -1)
            route += [row * side + column for column in columns]
        return route

    def start(self, observation: Observation) -> None:
        self.moved: int | None = None
        super().start(observation)

    def see(self, action: int, reward: float, observation: Observation) -> None:
        self.moved = None if observation[-1] > 0.0 else action
        super().see(action, reward, observation)

    def read(self, observation: Observation) -> None:
        self.spots = {}
        super().read(observation)

    def search(self) -> int:
        if self.cell not in self.route:
            return self.toward(min(self.route, key=lambda cell: int(self.far[self.cell, cell])))
        at = self.route.index(self.cell)
        came_back = at + 1 < len(self.route) and self.moved == self.move(at + 1, at)
        ahead = at - 1 if (came_back and at > 0) or at + 1 == len(self.route) else at + 1
        return self.move(at, ahead) if 0 <= ahead < len(self.route) else UP

    def move(self, at: int, ahead: int) -> int:
        """The action from one cell of the route to a neighbouring one."""
        offset = self.route[ahead] - self.route[at]
        return {-self.rules.side: UP, self.rules.side: DOWN, -1: LEFT, 1: RIGHT}[offset]
