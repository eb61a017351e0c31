"""Pair bandit (`mnm/PairBandit-v0`, `mnm/DoorMaze-v0`): bind N signs to their right doors, then look them up.

An episode draws N distinct codes, and for each a right action, uniform and independent. Every round shows
every code once, in a fresh random order; the right action pays 1. With two blocks the whole runs twice, with
the same codes and newly drawn right actions. The episode terminates after blocks * rounds * contexts steps.
With `symbols` more than `contexts` an episode draws its codes from that many: stages with a growing number of
contexts then look alike, and lead to tasks that are too hard to begin with.

The observation, in this order (C = symbols for symbol codes, 16 for random ones; A doors):
    C    the present code: one-hot (symbol) or +-1 (random, new in every episode); 0 after the last step
    C    the code of the step before, 0 at step 0, as all that follows
    A    the action of the step before, one-hot
    1    the reward of the step before
    A    the right action of the step before, one-hot (only with feedback "told")
    1    the round within its block, divided by the number of rounds
    1    1 at the first step of the second block (only with two blocks)

Drawn as a maze of doors: the room before on the left, its right door lit; the present one on the right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import UserError
from envs.native import Array, NativeVector
from envs.render import Image, draw_doors

CODE_BITS = 16


@dataclass(frozen=True)
class Rules:
    """The settings of the task, checked, and the sizes that follow."""

    contexts: int
    """N, the number of signs."""
    doors: int
    """A, the number of doors."""
    rounds: int
    """K, how often every sign is shown in a block."""
    codes: str
    """symbol | random."""
    feedback: str
    """told: the right action is shown afterwards; reward: only the reward is."""
    blocks: int
    """1, or 2: right actions are redrawn half way."""
    symbols: int | None = None
    """Symbol codes: how many there are; an episode draws N of them. None: N."""

    def __post_init__(self) -> None:
        limits = (("contexts", 1, 1024), ("doors", 2, 64), ("rounds", 1, 1024), ("blocks", 1, 2))
        for name, low, high in limits:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise UserError(
                    f"{name} of the pair bandit must be a whole number from {low} to {high}, not {value!r}"
                )
        for name, choices in (("codes", ("symbol", "random")), ("feedback", ("told", "reward"))):
            if getattr(self, name) not in choices:
                expected = " or ".join(choices)
                raise UserError(f"{name} of the pair bandit must be {expected}, not {getattr(self, name)!r}")
        if self.symbols is None:
            return
        if self.codes != "symbol":
            raise UserError("symbols of the pair bandit needs codes symbol: random codes are drawn from all")
        whole = isinstance(self.symbols, int) and not isinstance(self.symbols, bool)
        if not whole or not self.contexts <= self.symbols <= 1024:
            raise UserError(
                f"symbols of the pair bandit must be a whole number from contexts ({self.contexts}) to 1024, "
                f"not {self.symbols!r}"
            )

    @property
    def length(self) -> int:
        """Steps of an episode."""
        return self.blocks * self.rounds * self.contexts

    @property
    def code_size(self) -> int:
        """Numbers of a code."""
        return (self.symbols or self.contexts) if self.codes == "symbol" else CODE_BITS

    @property
    def size(self) -> int:
        """Numbers of an observation."""
        told = self.doors if self.feedback == "told" else 0
        return 2 * self.code_size + self.doors + told + 2 + (self.blocks - 1)

    @property
    def space(self) -> spaces.Box:
        """The space of one observation."""
        return spaces.Box(-1.0 if self.codes == "random" else 0.0, 1.0, (self.size,), dtype=np.float32)

    @property
    def memoryless_return(self) -> float:
        """Mean return of any player without memory: N K / A per block."""
        return self.length / self.doors

    @property
    def optimal_return(self) -> float:
        """Mean return of perfect play. Per block, told: N (1/A + K - 1); reward: N sum_v min(v / A, 1)."""
        if self.feedback == "told":
            per_sign = 1 / self.doors + self.rounds - 1
        else:
            per_sign = sum(min(v / self.doors, 1.0) for v in range(1, self.rounds + 1))
        return self.blocks * self.contexts * per_sign

    def draw(self, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """An episode: codes [N, C], then sign [T] and right action [T] of every step."""
        if self.codes == "symbol":
            codes = np.eye(self.code_size, dtype=np.float32)
            if self.code_size > self.contexts:
                codes = codes[rng.choice(self.code_size, size=self.contexts, replace=False)]
        else:
            numbers = rng.choice(1 << CODE_BITS, size=self.contexts, replace=False)
            codes = (((numbers[:, None] >> np.arange(CODE_BITS)) & 1) * 2 - 1).astype(np.float32)
        answers = rng.integers(self.doors, size=(self.blocks, self.contexts))
        signs = rng.random((self.blocks, self.rounds, self.contexts)).argsort(axis=-1)
        right = answers[np.arange(self.blocks)[:, None, None], signs]
        return codes, signs.ravel(), right.ravel()


class PairBanditVector(NativeVector):
    """N pair bandits side by side."""

    saved = ("codes", "signs", "right", "steps")

    def __init__(
        self,
        num_envs: int = 1,
        contexts: int = 16,
        doors: int = 4,
        rounds: int = 3,
        codes: str = "symbol",
        feedback: str = "told",
        blocks: int = 1,
        symbols: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.rules = Rules(contexts, doors, rounds, codes, feedback, blocks, symbols)
        super().__init__(num_envs, self.rules.space, doors, render_mode)
        self.codes = np.zeros((num_envs, contexts, self.rules.code_size), dtype=np.float32)
        self.signs = np.zeros((num_envs, self.rules.length), dtype=np.int64)
        self.right = np.zeros_like(self.signs)
        self.steps = np.zeros(num_envs, dtype=np.int64)
        self._one_hot = np.eye(doors, dtype=np.float32)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        actions = np.asarray(actions)
        rules, rows, size = self.rules, self.rows, self.rules.code_size
        signs, right = self.signs[rows, self.steps], self.right[rows, self.steps]
        rewards = (actions == right).astype(np.float64)
        self.steps += 1
        done = self.steps >= rules.length
        ahead = np.minimum(self.steps, rules.length - 1)

        observations = self._blank()
        observations[:, :size] = self.codes[rows, self.signs[rows, ahead]] * ~done[:, None]
        observations[:, size : 2 * size] = self.codes[rows, signs]
        at = 2 * size
        observations[:, at : at + rules.doors] = self._one_hot[actions]
        at += rules.doors
        observations[:, at] = rewards
        at += 1
        if rules.feedback == "told":
            observations[:, at : at + rules.doors] = self._one_hot[right]
            at += rules.doors
        block = rules.rounds * rules.contexts
        observations[:, at] = np.where(
            done, 1.0, self.steps % block // rules.contexts / np.float64(rules.rounds)
        )
        if rules.blocks == 2:
            observations[:, at + 1] = self.steps == block
        return self._close(observations, rewards, done, np.zeros_like(done))

    def _open(self, rows: Array, observations: Array) -> None:
        for i in rows:
            self.codes[i], self.signs[i], self.right[i] = self.rules.draw(self.generators[i])
        self.steps[rows] = 0
        observations[rows, : self.rules.code_size] = self.codes[rows, self.signs[rows, 0]]


class PairBandit(gymnasium.Env[Any, Any]):
    """One pair bandit. Action: a door.

    `info["needed_steps"]` names the earlier steps whose observation held the outcome for the present sign in
    this block; it is empty where there is none, and where the present observation itself holds it.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012

    def __init__(
        self,
        contexts: int = 16,
        doors: int = 4,
        rounds: int = 3,
        codes: str = "symbol",
        feedback: str = "told",
        blocks: int = 1,
        symbols: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.rules = Rules(contexts, doors, rounds, codes, feedback, blocks, symbols)
        self.render_mode = render_mode
        self.observation_space = self.rules.space
        self.action_space = spaces.Discrete(doors)
        self.action_names = tuple(f"door {door + 1}" for door in range(doors))
        self.codes, self.signs, self.right = self.rules.draw(np.random.default_rng(0))
        self.steps = 0
        self.last_action = -1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.codes, self.signs, self.right = self.rules.draw(self.np_random)
        self.steps = 0
        self.last_action = -1
        return self._observe(), {"needed_steps": ()}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self.last_action = int(action)
        reward = float(self.last_action == self.right[self.steps])
        self.steps += 1
        done = self.steps >= self.rules.length
        return self._observe(), reward, done, False, {"needed_steps": () if done else self._needed_steps()}

    def render(self) -> Image | None:
        if self.render_mode != "rgb_array":
            return None
        done = self.steps >= self.rules.length
        now = None if done else (self._glyph(self.steps), int(self.right[self.steps]))
        before = None
        if self.steps:
            before = (self._glyph(self.steps - 1), int(self.right[self.steps - 1]), self.last_action)
        return draw_doors(self.rules.doors, before, now)

    def observation_words(self) -> str:
        """What is told now of the room before, for the recalls; doors are counted from 1."""
        if not self.steps:
            return "the first room"
        right = int(self.right[self.steps - 1])
        if self.rules.feedback == "told" or self.last_action == right:
            return f"door {right + 1} was right"
        return f"door {self.last_action + 1} was wrong"

    def _needed_steps(self) -> tuple[int, ...]:
        start = self.steps - self.steps % (self.rules.rounds * self.rules.contexts)
        visits = start + np.flatnonzero(self.signs[start : self.steps] == self.signs[self.steps])
        told = tuple(int(visit) + 1 for visit in visits)
        return () if self.steps in told else told

    def _glyph(self, step: int) -> int:
        """16 bits that picture the sign of a step: a random code itself, a symbol by a fixed scramble."""
        sign = int(self.signs[step])
        if self.rules.codes == "symbol":
            return (int(self.codes[sign].argmax()) + 1) * 40503 % 65536
        return int(((self.codes[sign] > 0) << np.arange(CODE_BITS)).sum())

    def _observe(self) -> NDArray[np.float32]:
        rules, t = self.rules, self.steps
        block = rules.rounds * rules.contexts
        none = np.zeros(rules.code_size)
        one_hot = np.eye(rules.doors)
        done = t >= rules.length
        parts = [none if done else self.codes[self.signs[t]]]
        if t:
            before, right = self.signs[t - 1], self.right[t - 1]
            parts += [self.codes[before], one_hot[self.last_action], [self.last_action == right]]
            parts += [one_hot[right]] if rules.feedback == "told" else []
        else:
            parts += [none, 0 * one_hot[0], [0]] + ([0 * one_hot[0]] if rules.feedback == "told" else [])
        parts += [[1.0 if done else t % block // rules.contexts / rules.rounds]]
        parts += [[t == block]] if rules.blocks == 2 else []
        return np.concatenate(parts).astype(np.float32)
