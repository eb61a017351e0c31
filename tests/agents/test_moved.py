"""Evaluation on other levels: which arguments go along, and episodes that never end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v2 as imageio
import pytest
from gymnasium import spaces

import evaluate
from agents.api import Agent, train
from agents.evaluation import moved_to, play_episodes
from envs.errors import UserError
from recall.record.tape import Tape

SMALL: dict[str, Any] = {
    "core": "none", "num_envs": 2, "minibatches": 2, "rollout_steps": 4, "total_steps": 8, "hidden_size": 8,
    "embedding_size": 8, "epochs": 1,
}  # fmt: skip


class Endless(gymnasium.Env[Any, Any]):
    """Never ends."""

    observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)

    def __init__(self, symbols: int = 2) -> None:
        self.observation_space = spaces.Discrete(symbols)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return 1, 1.0, False, False, {}


def test_stored_arguments_belong_to_the_stored_environment(tmp_path: Path) -> None:
    kwargs = json.dumps({"side": 7, "max_steps": 5, "actions": [0, 1]})
    agent = train(env="mnm/GridMaze-v0", env_kwargs=kwargs, run_dir=str(tmp_path / "run"), **SMALL)
    moved = moved_to(agent.loaded, "mnm/GridMaze11-v0")
    assert json.loads(moved.config.env_kwargs) == {"actions": [0, 1]}
    own = moved_to(agent.loaded, None, {"side": 9})
    assert json.loads(own.config.env_kwargs) == {"side": 9, "max_steps": 5, "actions": [0, 1]}
    same = moved_to(agent.loaded, "mnm/GridMaze-v0")
    assert json.loads(same.config.env_kwargs) == json.loads(kwargs)


def test_other_observations_are_refused_with_both_arguments(tmp_path: Path) -> None:
    agent = train(env=Endless, run_dir=str(tmp_path / "run"), **SMALL)
    with pytest.raises(UserError, match=r'Endless {"symbols": 3} has other observations'):
        moved_to(agent.loaded, None, {"symbols": 3})


def test_episodes_that_never_end_are_cut_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = train(env=Endless, run_dir=str(tmp_path / "run"), **SMALL)
    assert [(r.length, r.cut) for r in play_episodes(agent.loaded, 3, num_envs=2, most_steps=7)] == [
        (7, True)
    ] * 3
    argv = [
        str(tmp_path / "run"),
        "--episodes",
        "2",
        "--max-episode-steps",
        "9",
        "--json",
        str(tmp_path / "x.json"),
    ]
    assert evaluate.main(argv) == 0
    assert "2 of them were cut after 9 steps (--max-episode-steps)" in capsys.readouterr().out
    found = json.loads((tmp_path / "x.json").read_text())
    assert (found["episodes_cut"], found["returns"]) == (2, [9.0, 9.0])


@pytest.mark.slow
def test_what_is_shown_is_cut_like_what_is_played(tmp_path: Path) -> None:
    train(env=Endless, run_dir=str(tmp_path / "run"), **SMALL)
    argv = [str(tmp_path / "run"), "--episodes", "1", "--max-episode-steps", "9"]
    assert evaluate.main([*argv, "--tape", str(tmp_path / "tape.npz"), "--gif", str(tmp_path / "a.gif")]) == 0
    assert Tape.load(tmp_path / "tape.npz").steps == 9
    assert len(imageio.mimread(tmp_path / "a.gif")) == 9
    against = ["--against", str(tmp_path / "run"), "--html", str(tmp_path / "a.html")]
    assert evaluate.main([*argv, *against]) == 0


def test_arguments_at_evaluation(tmp_path: Path) -> None:
    train(env="mnm/TMaze-v0", env_kwargs='{"length": 3}', run_dir=str(tmp_path / "run"), **SMALL)
    argv = [str(tmp_path / "run"), "--episodes", "1", "--json", str(tmp_path / "x.json")]
    for words, length in (([], 3), (["--env-kwargs", '{"length": 4}'], 4)):
        assert evaluate.main(argv + words) == 0
        assert json.loads((tmp_path / "x.json").read_text())["env_kwargs"] == {"length": length}
    with pytest.raises(UserError, match="--env-kwargs is not JSON"):
        evaluate.main([*argv, "--env-kwargs", "{"])
    assert Agent.load(tmp_path / "run").config.env_arguments() == {"length": 3}
