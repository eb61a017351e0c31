"""Named overlays on the default configuration; options given on the command line win over them."""

from __future__ import annotations

import dataclasses
from typing import Any

from agents.config import TrainConfig
from agents.options import suggestion
from envs.errors import UserError

MAZE: dict[str, Any] = {
    "env": "mnm/GridMaze9-v0",
    # The maze's observation already holds the previous action and reward.
    "previous_inputs": False,
    "reward_scale": 0.1,
    "num_envs": 64,
    "rollout_steps": 50,
    "learning_rate": 3e-3,
    "gamma": 0.95,
    "gae_lambda": 0.95,
    "log_every": 10,
}

MINIGRID_MEMORY: dict[str, Any] = {
    "env": "MiniGrid-MemoryS7-v0",
    # Left, right, forward: nothing else matters in these tasks.
    "env_kwargs": '{"actions": [0, 1, 2]}',
    "num_envs": 128,
    "rollout_steps": 128,
    # The five best trials of the search (benchmarks/studies/tune.py) have eight passes; four were the start.
    "epochs": 8,
    "minibatches": 8,
    "learning_rate": 1.5e-3,
    "anneal": False,
    # A policy that is certain early walks past the cue without looking at it, and never learns what it is for.
    "entropy_coef": 0.1,
    "entropy_coef_final": 0.005,
    "gamma": 0.995,
    "gae_lambda": 0.97,
    "value_coef": 0.25,
}

POPGYM: dict[str, Any] = {
    "env": "mnm/RepeatPrevious-v0",
    "num_envs": 64,
    "rollout_steps": 64,
    "minibatches": 8,
    "learning_rate": 2e-3,
    "gamma": 0.9,
}
"""Tasks in the manner of POPGym: short episodes, a symbol per step, an answer that is due later."""

PRESETS: dict[str, dict[str, Any]] = {
    "maze": MAZE,
    "minigrid-memory": MINIGRID_MEMORY,
    "popgym": POPGYM,
    "demo": {**MAZE, "total_steps": 400_000, "checkpoint_every": 20},
}


def preset(name: str | None) -> TrainConfig:
    """The default configuration under the overlay `name`; None means the defaults alone."""
    if name is None:
        return TrainConfig()
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}{suggestion(name, PRESETS)}; valid: {', '.join(PRESETS)}")
    return dataclasses.replace(TrainConfig(), **PRESETS[name])
