"""Held-out evaluation during training: changes nothing of the training, chooses `best`, is in rows and curves."""

from __future__ import annotations

import csv
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import envs
from agents.checkpoint import load_checkpoint
from agents.config import TrainConfig
from agents.episodes import EpisodeLog, is_success, success_rate
from agents.evaluation import load_agent, play_episodes, why_so_low
from agents.trainer import Trainer

SMALL = TrainConfig(
    env="mnm/TMaze-v0", env_kwargs='{"length": 3}', core="mnm-p", num_envs=4, minibatches=2, rollout_steps=10,
    total_steps=240, hidden_size=8, embedding_size=8, memory_size=4, log_every=2, checkpoint_every=2, anneal=False,
)  # fmt: skip
EVALUATED = replace(SMALL, eval_every=100, eval_episodes=3)


def trained(config: TrainConfig, path: Path, stop_after: int | None = None, resume: bool = False) -> Trainer:
    trainer = Trainer(replace(config, run_dir=str(path)), resume)
    trainer.run(stop_after_updates=stop_after)
    trainer.close()
    return trainer


def rows_of(path: Path) -> list[dict[str, str]]:
    with (path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_evaluation_changes_nothing_of_the_training(tmp_path: Path) -> None:
    for core in ("mnm-p", "hard"):
        off = trained(replace(SMALL, core=core, total_steps=80), tmp_path / f"{core}-off")
        on = trained(
            replace(EVALUATED, core=core, total_steps=80, eval_every=40, eval_episodes=1),
            tmp_path / f"{core}-on",
        )
        for name, value in off.model.state_dict().items():
            assert torch.equal(value, on.model.state_dict()[name]), name
        without = [column for column in rows_of(tmp_path / f"{core}-on")[0] if not column.startswith("eval_")]
        assert list(rows_of(tmp_path / f"{core}-off")[0]) == without


@pytest.mark.slow
@pytest.mark.curves
def test_rows_hold_what_evaluate_finds_and_best_is_the_best_of_them(tmp_path: Path) -> None:
    trained(EVALUATED, tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert [row["frames"] for row in rows] == ["80", "120", "160", "200", "240"]
    assert [row["frames"] for row in rows if row["eval_return_mean"]] == ["120", "200", "240"]
    agent = load_agent(tmp_path / "run", "latest", torch.device("cpu"))
    results = play_episodes(agent, 3)
    assert float(rows[-1]["eval_return_mean"]) == pytest.approx(
        np.mean([result.episode_return for result in results]), rel=1e-5
    )
    assert float(rows[-1]["eval_success_rate"]) == np.mean([result.success for result in results])
    best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    assert best["best_return"] == pytest.approx(
        max(float(row["eval_return_mean"]) for row in rows if row["eval_return_mean"]), rel=1e-5
    )
    assert (tmp_path / "run" / "curves.png").stat().st_size > 0


@pytest.mark.slow
def test_a_resumed_run_evaluates_when_the_whole_run_does(tmp_path: Path) -> None:
    config = replace(EVALUATED, core="lstm", eval_episodes=1)
    whole = trained(config, tmp_path / "whole")
    trained(config, tmp_path / "halves", stop_after=3)
    halves = trained(config, tmp_path / "halves", resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, halves.model.state_dict()[name])
    frames = [
        [row["frames"] for row in rows_of(tmp_path / run) if row["eval_return_mean"]]
        for run in ("whole", "halves")
    ]
    assert frames[0] == frames[1]
    assert whole.best_return == halves.best_return


PLUGIN = """
import gymnasium, numpy as np
from gymnasium import spaces

class Teller(gymnasium.Env):
    \"\"\"Every episode takes one step; success is told under `key`, if `when` says so.\"\"\"
    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)
    def __init__(self, key="is_success", when="always"):
        self.key, self.when, self.count = key, when, 0
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}
    def step(self, action):
        self.count += 1
        good = self.count % 2 == 0
        told = {"always": True, "only if good": good, "never": False}[self.when]
        return np.zeros(1, np.float32), -1.0, True, False, {self.key: good} if told else {}

gymnasium.register("Teller-v0", entry_point=Teller)
"""


@pytest.fixture
def _teller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "teller_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("teller_plugin", None)
    gymnasium.registry.pop("Teller-v0", None)


@pytest.mark.usefixtures("_teller")
@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize(
    ("arguments", "rate"),
    [
        ({}, 0.5),
        ({"key": "success"}, 0.5),
        ({"when": "only if good"}, 0.5),
        ({"when": "never"}, math.nan),
    ],
)
def test_success_told_by_the_environment_counts(
    arguments: dict[str, str], rate: float, autoreset: str
) -> None:
    vec = envs.make_vec("teller_plugin:Teller-v0", 2, 0, "sync", arguments, autoreset)
    log = EpisodeLog(2, vec.success_rule)
    vec.reset()
    for _ in range(16):
        log.add(vec.step(np.zeros(2, dtype=np.int64)))
    log.merge()
    assert log.count >= 16
    np.testing.assert_equal(log.summary()["success_rate"], rate)


def test_what_is_told_wins_over_the_rule() -> None:
    assert is_success("positive_return", -1.0, True, 1.0) == 1.0
    assert is_success("positive_return", 1.0, True, 0.0) == 0.0
    assert is_success("positive_return", 1.0, True, math.nan) == 1.0
    assert math.isnan(is_success(None, 1.0, True))
    assert success_rate([1.0, math.nan]) == 0.5


@pytest.mark.parametrize(
    ("trained", "greedy", "said"), [("0.98", 0.1, True), ("0.98", 0.9, False), ("", 0.0, False)]
)
def test_greedy_play_far_below_training_is_explained(
    trained: str, greedy: float, said: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert why_so_low(tmp_path, greedy) == ""
    (tmp_path / "metrics.csv").write_text(f"updates,success_rate\n5,0.2\n10,{trained}\n")
    line = why_so_low(tmp_path, greedy)
    assert ("0.980: greedy play can go in circles (--policy sample)" in line) == said == bool(line)
