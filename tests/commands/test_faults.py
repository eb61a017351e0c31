"""An environment that fails in the middle of training: one line, a traceback in a file, a checkpoint that is whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

import train_rl
from agents.checkpoint import load_checkpoint
from envs.errors import UserError

pytestmark = pytest.mark.slow

PLUGIN = """
import gymnasium, numpy as np
from gymnasium import spaces

class Breaks(gymnasium.Env):
    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)
    def __init__(self, how="raises"):
        self.how, self.t = how, 0
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}
    def step(self, action):
        self.t += 1
        if self.t > 20 and self.how == "raises":
            raise RuntimeError("lost its way")
        return np.zeros(2, np.float32), float("nan") if self.t > 20 else 0.0, False, self.t % 5 == 0, {}

gymnasium.register("Breaks-v0", entry_point=Breaks)
"""


@pytest.fixture(autouse=True)
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "breaks_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("breaks_plugin", None)
    gymnasium.registry.pop("Breaks-v0", None)


@pytest.mark.parametrize(
    ("how", "named"), [("raises", "step raised RuntimeError"), ("nan", "reward: got nan")]
)
def test_a_fault_ends_training_in_one_line_and_leaves_a_finite_checkpoint(
    how: str, named: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    argv = ["--env", "breaks_plugin:Breaks-v0", "--env-kwargs", f'{{"how": "{how}"}}', "--num-envs", "4",
            "--rollout-steps", "8", "--core", "lstm", "--checkpoint-every", "1", "--run-dir", str(run)]  # fmt: skip
    with pytest.raises(UserError) as caught:
        train_rl.main(argv)
    line = str(caught.value)
    assert "\n" not in line
    assert named in line
    assert f"--run-dir {run} --resume" in line
    assert (run / "fault.txt").exists() == (how == "raises")
    saved = load_checkpoint(run / "checkpoints" / "latest.pt")
    assert saved["updates"] == 2
    assert all(torch.isfinite(x).all() for x in saved["model"].values() if x.is_floating_point())
