"""MiniGrid's memory tasks, saying which step the agent needs to remember: for the checks, never for the agent.

A MiniGrid-Memory level shows an object in the room where the hallway begins; at the hallway's end the agent must
turn to the same object. The info of every step says (-1 where it has not happened yet)
    cue            what the room holds: 0 key, 1 ball
    cue_step       step of the first observation that shows it
    decision_step  step at which the agent last came to the end of the hallway, where it has to turn; it may have
                   been there before, and walked back to look
and `reset(options={"flip_cue": True})` gives the same level with the other object, so that the other exit is right.
"""

from __future__ import annotations

from typing import Any

import gymnasium
from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.core.world_object import Ball, Key
from minigrid.envs.memory import MemoryEnv

CUES = ("key", "ball")


def has_cue(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether an environment is a memory task that shows its own observations: somebody's wrapper may show others."""
    return isinstance(env.unwrapped, MemoryEnv) and env.observation_space == env.unwrapped.observation_space


class MemoryCue(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds the cue to the info of a memory task; observations, rewards and random numbers stay as they are."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.unwrapped, MemoryEnv)
        self.task = env.unwrapped
        self.place = (1, self.task.height // 2 - 1)
        self.steps, self.cue_step, self.decision_step, self.was_there = 0, -1, -1, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        if (options or {}).get("flip_cue"):
            self._flip()
            observation = self.task.gen_obs()
        self.steps, self.cue_step, self.decision_step, self.was_there = 0, -1, -1, False
        return observation, info | self._cue_info(observation)

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        return observation, reward, terminated, truncated, info | self._cue_info(observation)

    def _flip(self) -> None:
        task, other = self.task, Ball if self._shown() == "key" else Key
        task.grid.set(*self.place, other("green"))
        task.success_pos, task.failure_pos = task.failure_pos, task.success_pos

    def _shown(self) -> str:
        cell = self.task.grid.get(*self.place)
        assert cell is not None
        return str(cell.type)

    def _cue_info(self, observation: dict[str, Any]) -> dict[str, int]:
        task, shown = self.task, self._shown()
        if self.cue_step < 0:
            seen_at = task.relative_coords(*self.place)
            # A cell in view may be hidden behind a wall; then the image does not show what it holds.
            if seen_at and observation["image"][(*seen_at, 0)] == OBJECT_TO_IDX[shown]:
                self.cue_step = self.steps
        is_there = tuple(task.agent_pos) == (task.success_pos[0], task.height // 2)
        if is_there and not self.was_there:
            self.decision_step = self.steps
        self.was_there = is_there
        return {"cue": CUES.index(shown), "cue_step": self.cue_step, "decision_step": self.decision_step}
