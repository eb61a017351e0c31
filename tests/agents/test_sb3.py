"""Agents of sb3-contrib: the same returns as sb3's own prediction, step by step, and recalls of them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from checks import refusal
from gymnasium.envs.classic_control import CartPoleEnv

import evaluate
from envs import held_out_seed, make_single
from recall.record.tape import Tape

sb3_contrib = pytest.importorskip("sb3_contrib")
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

ENV = "Positions-v0"


class Positions(gymnasium.ObservationWrapper[Any, Any, Any]):
    """CartPole without its velocities."""

    def __init__(self) -> None:
        super().__init__(CartPoleEnv())
        self.observation_space = gymnasium.spaces.Box(-5.0, 5.0, (2,))

    def observation(self, observation: Any) -> Any:
        return observation[::2]


gymnasium.register(ENV, entry_point=Positions)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few updates on CartPole without velocities, with normalized observations."""
    folder = tmp_path_factory.mktemp("sb3")
    vector = VecNormalize(DummyVecEnv([Positions]), norm_reward=False)
    options = {"enable_critic_lstm": True, "lstm_hidden_size": 8, "net_arch": [8]}
    model = sb3_contrib.RecurrentPPO(
        "MlpLstmPolicy",
        vector,
        n_steps=64,
        batch_size=32,
        n_epochs=1,
        seed=0,
        device="cpu",
        policy_kwargs=options,
    )
    model.learn(128)
    model.save(folder / "model.zip")
    vector.save(str(folder / "statistics.pkl"))
    return folder


def predicted(folder: Path, statistics: bool, seed: int) -> float:
    """The return of one episode by sb3's own predict."""
    model = sb3_contrib.RecurrentPPO.load(folder / "model.zip", device="cpu")
    with (folder / "statistics.pkl").open("rb") as file:
        normalize = pickle.load(file)
    env, states, start, total, done = make_single(ENV), None, np.array([True]), 0.0, False
    observation, _ = env.reset(seed=seed)
    while not done:
        seen = observation["obs"][None]
        seen = normalize.normalize_obs(seen) if statistics else seen
        action, states = model.predict(seen, state=states, episode_start=start, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(int(action[0]))
        total, start, done = total + float(reward), np.array([False]), terminated or truncated
    return total


@pytest.mark.parametrize("statistics", [False, True])
def test_the_same_returns_as_sb3_itself(saved: Path, statistics: bool, tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    more = (
        ["--agent-kwargs", json.dumps({"vec_normalize": str(saved / "statistics.pkl")})] if statistics else []
    )
    argv = ["--agent", f"sb3:{saved / 'model.zip'}", "--trust", "--env", ENV, *more]
    shown = ["--html", str(tmp_path / "a.html"), "--tape", str(tmp_path / "a.npz")]
    assert evaluate.main([*argv, "--episodes", "4", "--json", str(out), *shown]) == 0
    returns = json.loads(out.read_text())["returns"]
    assert returns == [predicted(saved, statistics, held_out_seed(0, episode)) for episode in range(4)]
    tape = Tape.load(tmp_path / "a.npz")
    assert tape.steps == returns[0]
    assert '"opens_with":"step"' in (tmp_path / "a.html").read_text()


def test_what_cannot_be_loaded_is_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"mean": 0}))
    model, trust = f"sb3:{saved / 'model.zip'}", ["--trust", "--env", ENV]
    for argv, expected in (
        (["--agent", f"sb3:{tmp_path / 'no.zip'}", *trust], "no file at"),
        (["--agent", f"sb3:{tmp_path / 'bad.zip'}", *trust], "is not a saved RecurrentPPO"),
        (["--agent", model, "--trust", "--env", "CartPole-v1"], "was trained on Box"),
        (["--agent", model, "--trust", "--env", "mnm/TMaze-v0"], "was trained on Box"),
        (["--agent", model, *trust, "--agent-kwargs", '{"vecnorm": 1}'], "unknown --agent-kwargs 'vecnorm'"),
        (
            [
                "--agent",
                model,
                *trust,
                "--agent-kwargs",
                json.dumps({"vec_normalize": str(tmp_path / "bad.pkl")}),
            ],
            "is not a saved VecNormalize, it holds a dict",
        ),
    ):
        assert expected in refusal(evaluate.main, *argv)
