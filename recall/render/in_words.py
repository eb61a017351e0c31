"""What an observation showed, in a few words: the line that says what is recalled, and the tiles, use them.

An environment may say it itself, by a method `observation_words()` that returns a short text (`docs/environments.md`);
for MiniGrid it is the nearest thing in view, and where it lies. Anything else has no words, and its pictures speak.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from envs.door import Door

PLAIN = ("wall", "floor", "unseen", "empty")
LONGEST = 60
"""Characters of what an environment says; no line is longer."""


def observation_words(env: gymnasium.Env[Any, Any]) -> str:
    """A few words on what `env`, wrapped or not, shows now; empty where there are none."""
    if isinstance(env, Door) and (line := " ".join(env.observation_words().split())):
        return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
    inner: Any = env.unwrapped
    if hasattr(inner, "gen_obs_grid") and hasattr(inner, "agent_view_size"):
        return _nearest_thing(inner)
    return ""


def _nearest_thing(env: Any) -> str:
    """The nearest thing in MiniGrid's view; the agent stands in the middle of the last row and looks up."""
    grid, visible = env.gen_obs_grid()  # both [x, y]
    middle, last = grid.width // 2, grid.height - 1
    things = [
        (abs(x - middle) + last - y, x - middle, grid.get(x, y))
        for x in range(grid.width)
        for y in range(grid.height)
        if visible[x, y] and grid.get(x, y) is not None and grid.get(x, y).type not in PLAIN
    ]
    if not things:
        return ""
    away, right, thing = min(things, key=lambda found: found[:2])
    where = (
        "in hand" if away == 0 else "ahead" if right == 0 else f"on the {'right' if right > 0 else 'left'}"
    )
    # Goals are drawn red here, whatever their colour, so that no colour is named.
    name = "goal" if thing.type == "goal" else f"{thing.color} {thing.type}"
    return f"{name} {where}"
