"""Running normalization: exact moments, the same over ranks and resumes, frozen in evaluation, refused in wrappers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from checks import refusal, same
from gymnasium import spaces
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, RescaleAction

import train_rl
from agents.checkpoint import load_checkpoint
from agents.config import TrainConfig
from agents.evaluation import load_agent, play_episodes
from agents.normalize import EPS, Moments, RewardScale, is_normalized
from agents.run_dir import RunDirectory, config_from_dict, config_to_dict
from agents.trainer import Trainer
from envs import make_single
from envs.errors import UserError


class Drift(gymnasium.Env[Any, Any]):
    """Observations around 1000 with deviation 50, rewards of -500 or 500; four steps."""

    observation_space = spaces.Dict(
        {"far": spaces.Box(-np.inf, np.inf, (3,)), "near": spaces.Box(-1.0, 1.0, (2,))}
    )
    action_space = spaces.Discrete(2)

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observe(), 500.0 if action else -500.0, self.steps == 4, False, {}

    def _observe(self) -> Any:
        far = self.scale * self.np_random.normal(1000.0, 50.0, 3)
        return {"far": far.astype(np.float32), "near": np.zeros(2, np.float32)}


def wrapped(kind: str) -> gymnasium.Env[Any, Any]:
    """Normalizing wrappers deep inside another one."""
    env: gymnasium.Env[Any, Any] = gymnasium.make("Pendulum-v1")
    return RescaleAction(NormalizeObservation(env) if kind == "obs" else NormalizeReward(env), -1.0, 1.0)


gymnasium.register("Drift-v0", entry_point=Drift)
gymnasium.register("Wrapped-v0", entry_point=wrapped)
ENV = "test_normalize:Drift-v0"


def config(run_dir: Path, **options: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "env": ENV, "core": "lstm", "hidden_size": 8, "embedding_size": 8, "num_envs": 4, "rollout_steps": 6,
        "minibatches": 2, "log_every": 1, "backend": "sync", "device": "cpu", "total_steps": 96,
        "normalize_rewards": True,
    }  # fmt: skip
    return TrainConfig(**{**settings, **options}, run_dir=str(run_dir))


def test_moments_of_many_parts_are_those_of_the_whole() -> None:
    torch.manual_seed(0)
    values, valid = 1e4 + 3.0 * torch.randn(6, 5, 2, dtype=torch.float64), torch.rand(6, 5) < 0.7
    moments = Moments((2,))
    torch.testing.assert_close(moments(values), values.clamp(-10, 10))
    for first, last in ((0, 1), (1, 4), (4, 6)):
        moments.count(values[first:last], valid[first:last])
    counted = values[valid]
    torch.testing.assert_close(moments.mean, counted.mean(0))
    torch.testing.assert_close(moments.variance, counted.var(0, correction=0))
    torch.testing.assert_close(
        moments(counted).mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0
    )
    before = moments.number.clone()
    moments.count(values, torch.zeros(6, 5, dtype=torch.bool))
    assert torch.equal(moments.number, before)


def test_the_reward_scale_is_the_deviation_of_the_discounted_return() -> None:
    torch.manual_seed(0)
    reward, done = 7.0 * torch.randn(12, 3), torch.rand(12, 3) < 0.2
    valid = torch.rand(12, 3) < 0.8
    done &= valid
    scale, carried = RewardScale(0.9), torch.zeros(3)
    for rows in (slice(0, 5), slice(5, 12)):
        carried = scale.count_rewards(reward[rows], valid[rows], done[rows], carried)
    returns = []
    for n in range(3):
        g = 0.0
        for t in range(12):
            if valid[t, n]:
                g = 0.9 * g + float(reward[t, n])
                returns.append(g)
            g = 0.0 if done[t, n] else g
        assert float(carried[n]) == pytest.approx(g, rel=1e-5)
    assert float(scale.deviation) == pytest.approx(np.sqrt(np.var(returns) + EPS), rel=1e-5)
    assert torch.equal(scale.scaled(reward).sign(), reward.sign())


@pytest.mark.parametrize(
    ("space", "unbounded", "auto", "on"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), True, True, True),
        (spaces.Box(np.array([-1.0, -np.inf], np.float32), np.ones(2, np.float32)), True, True, True),
        (
            spaces.Box(np.array([-1.2, -0.07], np.float32), np.array([0.6, 0.07], np.float32)),
            False,
            True,
            True,
        ),
        (spaces.Box(np.array([-1.0, -8.0], np.float32), np.array([1.0, 8.0], np.float32)), False, True, True),
        (spaces.Box(-1.0, 1.0, (2,)), False, False, True),
        (spaces.Box(0.0, 1.0, (2,)), False, False, True),
        (spaces.Box(0, 255, (4,), np.uint8), False, False, True),
        (spaces.Discrete(3), False, False, False),
    ],
)
def test_auto_means_floats_that_are_not_bounded_by_about_one(
    space: Any, unbounded: bool, auto: bool, on: bool
) -> None:
    choices = ("off", "unbounded", "auto", "on")
    assert [is_normalized(space, choice) for choice in choices] == [False, unbounded, auto, on]


def test_training_counts_and_evaluation_does_not(tmp_path: Path) -> None:
    trainer = Trainer(config(tmp_path / "run"))
    model, rollout = trainer.model, trainer.collector.rollout
    far, near = (model.encoder.parts[key] for key in ("far", "near"))
    assert near.moments is None
    metrics = trainer.advance()
    assert metrics["ratio_error_first"] < 1e-5
    torch.testing.assert_close(far.moments.mean, rollout.obs["far"][:-1].double().mean((0, 1)))
    assert 300 < float(model.return_scale.deviation) < 1500
    assert model.encoder.reward_moments.number == rollout.valid.sum()
    assert float(trainer.advance()["ratio_error_first"]) < 1e-4
    assert abs(trainer.collector.episodes.summary()["return_mean"]) <= 2000
    assert max(abs(row[0]) for row in trainer.collector.episodes.finished) >= 500  # the environment's own
    trainer.run()
    trainer.close()
    agent = load_agent(tmp_path / "run", "latest", torch.device("cpu"))
    before = {name: x.clone() for name, x in agent.model.state_dict().items()}
    assert all(result.episode_return % 500 == 0 for result in play_episodes(agent, 3))
    assert all(torch.equal(x, before[name]) for name, x in agent.model.state_dict().items())
    assert before["encoder.parts.far.moments.number"] == 96


@pytest.mark.slow
def test_a_resumed_run_has_the_same_statistics_bit_for_bit(tmp_path: Path) -> None:
    whole = Trainer(config(tmp_path / "whole"))
    whole.run()
    parts = Trainer(config(tmp_path / "parts"))
    parts.run(stop_after_updates=2)
    parts.close()
    resumed = Trainer(config(tmp_path / "parts"), resume=True)
    resumed.run()
    for trainer in (whole, resumed):
        trainer.close()
    saved = [
        load_checkpoint(RunDirectory(tmp_path / name).checkpoint("latest")) for name in ("whole", "parts")
    ]
    assert same(saved[0]["model"], saved[1]["model"])
    assert torch.equal(saved[0]["collector"]["discounted"], saved[1]["collector"]["discounted"])


def test_runs_from_before_the_option_are_not_normalized(tmp_path: Path) -> None:
    Trainer(config(tmp_path / "run", normalize_observations="off", normalize_rewards=False)).close()
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    for name in ("normalize_observations", "normalize_rewards"):
        del stored["config"][name]
    path.write_text(json.dumps(stored))
    assert RunDirectory(tmp_path / "run").read_config(TrainConfig).normalize_observations == "off"


def test_auto_of_runs_from_before_the_activation_means_floats_without_bounds(tmp_path: Path) -> None:
    stored = config_to_dict(config(tmp_path))
    assert stored["normalize_observations"] == "auto"
    assert config_from_dict(TrainConfig, dict(stored), "config.json") == config(tmp_path)
    del stored["activation"]
    older = config_from_dict(TrainConfig, stored, "config.json")
    assert (older.normalize_observations, older.activation) == ("unbounded", "relu")


def test_a_normalizer_that_is_not_finite_is_one_line() -> None:
    moments = Moments((2,), "observation 'far'")
    values = torch.full((2, 3, 2), 1e200, dtype=torch.float64) * torch.arange(3)[:, None]
    with pytest.raises(UserError, match=r"observation 'far' is not finite: it met a magnitude of 2e\+200"):
        moments.count(values, torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("kind", "option"), [("obs", "--normalize-observations on"), ("rew", "--normalize-rewards")]
)
def test_wrappers_that_normalize_are_refused(kind: str, option: str, tmp_path: Path) -> None:
    chosen = ["--env", "test_normalize:Wrapped-v0", "--env-kwargs", json.dumps({"kind": kind})]
    assert option in refusal(train_rl.main, *chosen, "--run-dir", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_environment_itself_is_fine() -> None:
    make_single("Pendulum-v1").close()
