"""Island graph (`mnm/IslandGraph-v0`): learn the ways between islands while being sent from one to another.

S islands are joined by directed ways of A transports; the graph is another in every episode and never shown. Taking
a transport leads to the island that its way leads to, or costs 0.05 where there is no way. Reaching the target pays
10; then another target is set and the agent put on another island. After more than S steps without reward both are
drawn again. An episode ends (`terminated`) after `max_steps`.

The graph of an episode: every island gets a way to a random other island, by a random transport; then every island
gets one from a random other island, by a random transport that is still free there; a graph in which some island
cannot be reached from some other is thrown away. `graphs="fresh"` draws one per episode; `graphs="fixed"` takes one
of 600 graphs, or of 600 others under held-out seeds (`envs/seeds.py`). With `names` more than `islands` the islands of
an episode have as many of those names, drawn anew: stages with 3, 4 and 5 islands of 5 look alike.

The observation, in this order (N names):
    N    the name of the target, one-hot
    N    the name of the position, one-hot
    A+1  the last action, one-hot; the last entry stands for none, at the start and after drawing again
    1    the constant 1
    1    step / max_steps

Task and rules: Schlag, Munkhdalai, Schmidhuber 2021, "Learning Associative Inference Using Fast Weight Memory".
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import UserError
from envs.native import Array, NativeVector
from envs.render import Image, colour_name, draw_islands
from envs.seeds import HALF

FIXED_GRAPHS = 600
"""Graphs to train on with `graphs="fixed"`; as many others to be tested on."""
DRAWN_AT_ONCE = 8
"""Fresh graphs that an environment draws together, for speed."""
NO_WAY = -1
REWARD, PENALTY = 10.0, 0.05


def draw_graphs(islands: int, transports: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """[count, S, A] where every transport leads from every island, NO_WAY where it leads nowhere."""
    found = np.zeros((0, islands, transports), dtype=np.int64)
    tries, numbers = count + count // 4 + 2, np.arange(islands)  # nine in ten are connected
    rows = np.arange(tries)
    starts = numbers.repeat(transports)
    while len(found) < count:
        flat = np.full((tries, islands * transports), NO_WAY, dtype=np.int64)
        others = rng.integers(islands - 1, size=(tries, islands))
        by = rng.integers(transports, size=(tries, islands))
        flat[rows[:, None], numbers * transports + by] = others + (others >= numbers)
        preference = rng.random((tries, islands, islands * transports))
        for island in numbers:
            possible = (flat == NO_WAY) & (starts != island)
            flat[rows, np.where(possible, preference[:, island], -1.0).argmax(axis=1)] = island
        graphs = flat.reshape(tries, islands, transports)
        found = np.concatenate([found, graphs[is_connected(graphs)]])
    return found[:count]


def is_connected(graphs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[M] whether every island of graphs [M, S, A] can be reached from every other."""
    islands = graphs.shape[1]
    reached = (graphs[..., None] == np.arange(islands)).any(axis=2) | np.eye(islands, dtype=np.bool_)
    for _ in range(islands.bit_length()):
        reached = reached @ reached
    return np.asarray(reached.all(axis=(1, 2)))


@cache
def fixed_graphs(islands: int, transports: int) -> NDArray[np.int64]:
    """[2 * FIXED_GRAPHS, S, A] different graphs, the same for everybody."""
    drawn = draw_graphs(islands, transports, 3 * FIXED_GRAPHS, np.random.default_rng(0))
    _, first = np.unique(drawn, axis=0, return_index=True)
    if len(first) < 2 * FIXED_GRAPHS:
        raise UserError(
            f"there are not {2 * FIXED_GRAPHS} different graphs of {islands} islands and {transports} transports: "
            "use graphs=fresh"
        )
    graphs = drawn[np.sort(first)[: 2 * FIXED_GRAPHS]]
    graphs.flags.writeable = False
    return graphs


@dataclass(frozen=True)
class Rules:
    """The settings of the task, checked, and what follows."""

    islands: int
    """S."""
    transports: int
    """A."""
    max_steps: int
    """Steps of an episode."""
    graphs: str
    """fresh: drawn per episode; fixed: one of 600."""
    given_names: int | None
    """Names that islands may have; None: one for each."""

    def __post_init__(self) -> None:
        ranges = (
            ("islands", 3, 32),
            ("transports", 2, 16),
            ("max_steps", 1, 10**6),
            ("names", self.islands, 1024),
        )
        for name, low, high in ranges:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise UserError(
                    f"{name} of the island graph must be a whole number from {low} to {high}, not {value!r}"
                )
        if self.graphs not in ("fresh", "fixed"):
            raise UserError(f"graphs of the island graph must be fresh or fixed, not {self.graphs!r}")

    @property
    def names(self) -> int:
        """N."""
        return self.islands if self.given_names is None else self.given_names

    @property
    def space(self) -> spaces.Box:
        """The space of one observation."""
        return spaces.Box(0.0, 1.0, (2 * self.names + self.transports + 3,), dtype=np.float32)

    @cached_property
    def queue(self) -> int:
        """Graphs that an environment draws at once."""
        return DRAWN_AT_ONCE if self.graphs == "fresh" else 1

    def draw(self, held_out: bool, rng: np.random.Generator) -> NDArray[np.int64]:
        """[queue, N, A] the graphs of the next episodes; no way leads from or to a name that no island has."""
        if self.graphs == "fresh":
            graphs = draw_graphs(self.islands, self.transports, self.queue, rng)
        else:
            chosen = int(rng.integers(FIXED_GRAPHS)) + FIXED_GRAPHS * held_out
            graphs = fixed_graphs(self.islands, self.transports)[chosen : chosen + 1]
        if self.names > self.islands:
            graphs = np.stack([self.named(graph, rng) for graph in graphs])
        return graphs

    def named(self, graph: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """[N, A] a graph [S, A] whose islands have names drawn from all."""
        drawn = rng.permutation(self.names)[: self.islands]
        names = np.append(drawn, NO_WAY)  # a graph's NO_WAY, -1, is the last index
        found = np.full((self.names, self.transports), NO_WAY, dtype=np.int64)
        found[drawn] = names[graph]
        return found

    def errand(self, graph: NDArray[np.int64], old: int | None, rng: np.random.Generator) -> tuple[int, int]:
        """A new target in graph [N, A], another than the old one, and a position that is not the target."""
        if self.names == self.islands:
            return self._errand(old, rng)
        there = np.flatnonzero((graph != NO_WAY).any(axis=1))  # a way leads from every island
        target, position = self._errand(None if old is None else int(np.searchsorted(there, old)), rng)
        return int(there[target]), int(there[position])

    def _errand(self, old: int | None, rng: np.random.Generator) -> tuple[int, int]:
        others = self.islands - 1
        # `random` answers ten times as fast as `integers`, and this is what a step waits for.
        target, position = divmod(
            int(rng.random() * (self.islands if old is None else others) * others), others
        )
        target += old is not None and target >= old
        return target, position + (position >= target)


class IslandGraphVector(NativeVector):
    """N island graphs side by side."""

    saved = ("ahead", "used", "graphs", "targets", "positions", "waited", "steps", "held_out")

    def __init__(
        self,
        num_envs: int = 1,
        islands: int = 5,
        transports: int = 3,
        max_steps: int = 30,
        graphs: str = "fresh",
        names: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.rules = Rules(islands, transports, max_steps, graphs, names)
        super().__init__(num_envs, self.rules.space, transports, render_mode)
        self.ahead = np.zeros((num_envs, self.rules.queue, self.rules.names, transports), dtype=np.int64)
        """The graphs that were drawn together."""
        self.used = np.zeros(num_envs, dtype=np.int64)
        """How many of them were played."""
        self.graphs = np.zeros((num_envs, self.rules.names, transports), dtype=np.int64)
        self.targets = np.zeros(num_envs, dtype=np.int64)
        self.positions = np.zeros(num_envs, dtype=np.int64)
        self.waited = np.zeros(num_envs, dtype=np.int64)
        """Steps since target and position were drawn."""
        self.steps = np.zeros(num_envs, dtype=np.int64)
        self.held_out = np.zeros(num_envs, dtype=np.bool_)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        actions, rules = np.asarray(actions), self.rules
        reached = self.graphs[self.rows, self.positions, actions]
        blocked = reached == NO_WAY
        self.positions = np.where(blocked, self.positions, reached)
        rewards = blocked * -PENALTY
        self.steps += 1
        self.waited += 1
        last = actions.copy()
        arrived = self.positions == self.targets
        rewards[arrived] += REWARD
        late = ~arrived & (self.waited > rules.islands)
        last[late] = rules.transports
        for i in np.flatnonzero(arrived | late):
            old = int(self.targets[i]) if arrived[i] else None
            self.targets[i], self.positions[i] = rules.errand(self.graphs[i], old, self.generators[i])
        self.waited[arrived | late] = 0
        observations = self._blank()
        self._show(self.rows, last, observations)
        done = self.steps >= rules.max_steps
        return self._close(observations, rewards, done, np.zeros_like(done))

    def _seeded(self, i: int, seed: int) -> None:
        self.held_out[i] = seed >= HALF
        self.used[i] = 0

    def _open(self, rows: Array, observations: Array) -> None:
        rules = self.rules
        for i in rows:
            if self.used[i] % rules.queue == 0:
                self.ahead[i] = rules.draw(bool(self.held_out[i]), self.generators[i])
            self.graphs[i] = self.ahead[i, self.used[i] % rules.queue]
            self.targets[i], self.positions[i] = rules.errand(self.graphs[i], None, self.generators[i])
        self.used[rows] += 1
        self.waited[rows] = self.steps[rows] = 0
        self._show(rows, np.full(rows.size, rules.transports), observations)

    def _show(self, rows: Array, last: Array, observations: Array) -> None:
        names, steps = self.rules.names, self.steps[rows]
        observations[rows, self.targets[rows]] = 1.0
        observations[rows, names + self.positions[rows]] = 1.0
        observations[rows, 2 * names + last] = 1.0
        observations[rows, -2] = 1.0
        observations[rows, -1] = steps / self.rules.max_steps


class IslandGraph(gymnasium.Env[Any, Any]):
    """One island graph. Action: a transport.

    `info["needed_steps"]` names the earlier steps whose observation told where a way leads that is the next one of
    a shortest walk to the target; it is empty where none was travelled, and where it was travelled just now.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012

    def __init__(
        self,
        islands: int = 5,
        transports: int = 3,
        max_steps: int = 30,
        graphs: str = "fresh",
        names: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.rules = Rules(islands, transports, max_steps, graphs, names)
        self.render_mode = render_mode
        self.observation_space = self.rules.space
        self.action_space = spaces.Discrete(transports)
        self.action_names = tuple(f"{colour_name(number)} {number + 1}" for number in range(transports))
        self.ahead: deque[NDArray[np.int64]] = deque()
        self.held_out = False
        self.graph: NDArray[np.int64] = np.full((self.rules.names, transports), NO_WAY, dtype=np.int64)
        self.target, self.position = 0, 1
        self.steps = self.waited = 0
        self.travelled: dict[tuple[int, int], list[int]] = {}
        """For every way that was taken, the steps whose observation told where it leads."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.held_out = seed >= HALF
            self.ahead.clear()
        self._begin(self.np_random)
        return self._observe(None), {"needed_steps": ()}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        start, action = self.position, int(action)
        reached = int(self.graph[start, action])
        reward = -PENALTY if reached == NO_WAY else 0.0
        self.steps += 1
        self.waited += 1
        shown: int | None = action
        if reached != NO_WAY:
            self.position = reached
        if self.position == self.target:
            reward += REWARD
            self.target, self.position = self.rules.errand(self.graph, self.target, self.np_random)
            self.waited = 0
        elif self.waited > self.rules.islands:
            self.target, self.position = self.rules.errand(self.graph, None, self.np_random)
            self.waited, shown = 0, None
        if reached != NO_WAY and shown is not None:
            self.travelled.setdefault((start, action), []).append(self.steps)
        done = self.steps >= self.rules.max_steps
        return self._observe(shown), reward, done, False, {"needed_steps": () if done else self._needed()}

    def render(self) -> Image | None:
        if self.render_mode != "rgb_array":
            return None
        ways = [(int(a), int(self.graph[a, by]), int(by)) for a, by in np.argwhere(self.graph != NO_WAY)]
        return draw_islands(self.rules.names, ways, self.position, self.target)

    def observation_words(self) -> str:
        """Where the agent is now, for the recalls; islands are counted from 1."""
        return f"on island {self.position + 1}, bound for {self.target + 1}"

    def distances(self) -> NDArray[np.int64]:
        """[N] steps of the shortest walk from every island to the target; S where no island is."""
        far = np.full(self.rules.names + 1, self.rules.islands, dtype=np.int64)  # the last stands for NO_WAY
        far[self.target] = 0
        for _ in range(self.rules.islands):
            far[:-1] = np.minimum(far[:-1], 1 + far[self.graph].min(axis=1))
        return far[:-1]

    def _begin(self, rng: np.random.Generator) -> None:
        if not self.ahead:
            self.ahead.extend(self.rules.draw(self.held_out, rng))
        self.graph = self.ahead.popleft()
        self.target, self.position = self.rules.errand(self.graph, None, rng)
        self.steps = self.waited = 0
        self.travelled = {}

    def _needed(self) -> tuple[int, ...]:
        far = self.distances()
        steps: list[int] = []
        for by, reached in enumerate(self.graph[self.position]):
            if reached != NO_WAY and far[reached] == far[self.position] - 1:
                steps += self.travelled.get((self.position, by), [])
        return () if self.steps in steps else tuple(sorted(steps))

    def _observe(self, last: int | None) -> NDArray[np.float32]:
        rules = self.rules
        observation = np.zeros(rules.space.shape, dtype=np.float32)
        observation[self.target] = observation[rules.names + self.position] = 1.0
        observation[2 * rules.names + (rules.transports if last is None else last)] = 1.0
        observation[-2], observation[-1] = 1.0, self.steps / rules.max_steps
        return observation
