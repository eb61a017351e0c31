"""Two players of the island graph: one has to find the ways and remembers them, one is told all of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.players import Observation
from envs.island_graph import NO_WAY, IslandGraph

UNKNOWN = -2
"""A transport that was not tried from an island."""


class Traveller:
    """What the two share: reading observations, and the shortest walk over the ways that they know."""

    def __init__(self, env: IslandGraph) -> None:
        self.rules = env.rules
        self.graph: NDArray[np.int64] = np.full((self.rules.names, self.rules.transports), UNKNOWN)
        self.target = self.position = 0

    def start(self, observation: Observation) -> None:
        self.read(observation)

    def see(self, action: int, reward: float, observation: Observation) -> None:
        self.read(observation)

    def read(self, observation: Observation) -> None:
        """Take target and position from an observation."""
        names = self.rules.names
        self.target = int(observation[:names].argmax())
        self.position = int(observation[names : 2 * names].argmax())

    def walk(self, goals: NDArray[np.bool_]) -> int | None:
        """The first transport of a shortest walk to one of the islands; None if no known walk leads there."""
        names = self.rules.names
        far = np.where(goals, 0, names)
        ways = np.where(self.graph >= 0, self.graph, names)
        for _ in range(names):
            far = np.minimum(far, 1 + np.append(far, names)[ways].min(axis=1))
        steps = np.append(far, names)[ways[self.position]]
        return int(steps.argmin()) if steps.min() < names else None


class Knows(Traveller):
    """Is told the graph by the environment."""

    def __init__(self, env: IslandGraph) -> None:
        super().__init__(env)
        self.env = env

    def act(self) -> int:
        self.graph = self.env.graph
        action = self.walk(np.arange(self.rules.names) == self.target)
        assert action is not None, "every island can be reached"
        return action


class Remembers(Traveller):
    """Reads observations alone and forgets no way; where it knows no walk, it goes to the nearest new transport."""

    def start(self, observation: Observation) -> None:
        self.graph[:] = UNKNOWN
        super().start(observation)

    def act(self) -> int:
        action = self.walk(np.arange(self.rules.names) == self.target)
        if action is not None:
            return action
        new = self.graph == UNKNOWN
        if new[self.position].any():
            return int(new[self.position].argmax())
        action = self.walk(new.any(axis=1))
        return 0 if action is None else action

    def see(self, action: int, reward: float, observation: Observation) -> None:
        start, target = self.position, self.target
        self.read(observation)
        told = observation[-3] == 0.0  # the last action is not "none", so the position is where it led
        if reward > 0.0:
            self.graph[start, action] = target
        elif reward < 0.0:
            self.graph[start, action] = NO_WAY
        elif told:
            self.graph[start, action] = self.position
