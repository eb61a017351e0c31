"""Repeat-previous (`mnm/RepeatPrevious-v0`): answer the symbol that was shown `lag` steps ago.

The smallest exact test of memory with writes and reads at every step. Each of the `length - lag` answers that
count is worth +1/(length - lag) when right and the same when wrong with a minus, so the return lies in [-1,
1]; whoever does not remember is right once in four times and gets -0.5 on average. After "Repeat Previous" of
POPGym (Morad et al. 2023).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import UserError
from envs.render import BLUE, FREE, ORANGE, RED, WALL, Image, draw_square, draw_tiles

SYMBOLS = 4


class RepeatPrevious(gymnasium.Env[Any, Any]):
    """Observation: the present symbol, one-hot of 4. Action: a symbol. The first `lag` answers do not count.

    The episode terminates after `length` steps, because the task is then over. The observation that comes
    with the end is one more random symbol.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, lag: int = 4, length: int = 32, render_mode: str | None = None) -> None:
        for name, value in (("lag", lag), ("length", length)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(
                    f"{name} of repeat-previous must be a whole number of at least 1, not {value!r}"
                )
        if lag >= length:
            raise UserError(f"lag of repeat-previous must be smaller than length {length}, not {lag}")
        self.lag = lag
        self.length = length
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0.0, 1.0, (SYMBOLS,), dtype=np.float32)
        self.action_space = spaces.Discrete(SYMBOLS)
        self.symbols = np.zeros(length + 1, dtype=np.int64)
        self.steps = 0
        self.answer: int | None = None
        self.was_right: bool | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.symbols = self.np_random.integers(SYMBOLS, size=self.length + 1)
        self.steps = 0
        self.answer = self.was_right = None
        return self._observe(), {}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        reward = 0.0
        self.answer = int(action)
        if self.steps >= self.lag:
            self.was_right = self.answer == self.symbols[self.steps - self.lag]
            reward = (1.0 if self.was_right else -1.0) / (self.length - self.lag)
        self.steps += 1
        return self._observe(), reward, self.steps >= self.length, False, {}

    def render(self) -> Image | None:
        """Rows are symbols; blue: the last `lag` steps and now; behind the wall: the answer, red if wrong."""
        if self.render_mode != "rgb_array":
            return None
        tile = 20
        colours = np.full((SYMBOLS + 2, self.lag + 5, 3), WALL, dtype=np.uint8)
        colours[1:-1, 1 : self.lag + 2] = FREE
        colours[1:-1, -2] = FREE
        image = draw_tiles(colours, tile)
        for age in range(min(self.lag, self.steps) + 1):
            row = 1 + int(self.symbols[self.steps - age])
            draw_square(image, (row, self.lag + 1 - age), BLUE, tile)
        if self.answer is not None:
            draw_square(
                image, (1 + self.answer, self.lag + 3), RED if self.was_right is False else ORANGE, tile
            )
        return image

    def observation_words(self) -> str:
        """What is seen now, for the recalls."""
        return f"symbol {self.symbols[self.steps]}"

    def _observe(self) -> NDArray[np.float32]:
        observation = np.zeros(SYMBOLS, dtype=np.float32)
        observation[self.symbols[self.steps]] = 1.0
        return observation
