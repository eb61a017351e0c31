"""From Python: environments that are given, not named; an agent in one's own loop; its step exported."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import envs
import evaluate
from agents.api import Agent, train
from agents.config import TrainConfig
from agents.evaluation import play_episodes
from envs.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "num_envs": 2, "minibatches": 2, "rollout_steps": 4, "total_steps": 16, "hidden_size": 8, "embedding_size": 8,
    "memory_size": 4, "epochs": 1,
}  # fmt: skip


class Count(gymnasium.Env[Any, Any]):
    """Shows the step; pays the action."""

    observation_space = spaces.Discrete(6, start=1)
    action_space = spaces.Discrete(3, start=4)

    def __init__(self, length: int = 5) -> None:
        self.length, self.t = length, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 1
        return self.t, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.t += 1
        return self.t, float(action), self.t > self.length, False, {}


@pytest.mark.parametrize("backend", ["auto", "sync", "async"])
@pytest.mark.parametrize("kind", ["class", "lambda", "object"])
def test_what_makes_an_environment_is_taken_where_an_id_is(kind: str, backend: str) -> None:
    given: Any = {"class": Count, "lambda": lambda length=5: Count(length), "object": Count(3)}[kind]
    kwargs = None if kind == "object" else {"length": 3}
    vec = envs.make_vec(given, 2, 0, backend, kwargs)
    vec.reset()
    ends = [vec.step(np.zeros(2, dtype=np.int64)).terminated.tolist() for _ in range(3)]
    vec.close()
    assert ends == [[False] * 2, [False] * 2, [True] * 2]
    single = envs.make_single(given, kwargs)
    assert (single.observation_space["obs"], single.action_space) == (spaces.Discrete(6), spaces.Discrete(3))
    if kind == "object":
        assert given.t == 0  # copies are used


def test_ids_of_given_environments() -> None:
    assert envs.id_of("mnm/TMaze-v0") == "mnm/TMaze-v0"
    assert envs.id_of(Count) == f"{__name__}:Count"
    one, other = (lambda: Count()), (lambda: Count())
    assert envs.id_of(one) == envs.id_of(one) != envs.id_of(other)
    assert envs.id_of(one).startswith("python/")


def test_errors_of_given_environments() -> None:
    class Stuck(Count):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("holds a socket")

    for given, kwargs, named in (
        (3, None, "not int"),
        (Stuck(), None, "Stuck cannot be copied (holds a socket)"),
        (Count, {"lenght": 3}, "no env kwarg 'lenght'; it accepts length"),
        (lambda: 3, None, "must inherit|old gym"),
        ("python/Gone-v0", None, "Agent.load(path, env=...)"),
    ):
        with pytest.raises(UserError) as caught:
            envs.make_single(given, kwargs)  # type: ignore[arg-type]
        assert any(part in str(caught.value) for part in named.split("|"))
        assert "\n" not in str(caught.value)


def test_a_class_of_a_module_is_found_by_evaluate_too(tmp_path: Path) -> None:
    agent = train(env=Count, core="lstm", run_dir=str(tmp_path / "run"), **SMALL)
    assert agent.config.env == f"{__name__}:Count"
    assert evaluate.main([str(tmp_path / "run"), "--episodes", "2", "--json", str(tmp_path / "x.json")]) == 0
    assert agent.evaluate(2)["length_mean"] == 5


def test_a_lambda_is_given_again_to_load(tmp_path: Path) -> None:
    def make() -> Count:
        return Count(3)

    agent = train(TrainConfig(core="none"), env=make, run_dir=str(tmp_path / "run"), **SMALL)
    again = Agent.load(tmp_path / "run", env=make)
    for name, value in agent.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


@pytest.mark.parametrize(
    ("env", "core"),
    [(Count, "lstm"), ("mnm/TMaze-v0", "mnm-p"), ("MiniGrid-MemoryS7-v0", "gru"), ("Pendulum-v1", "lstm")],
)
def test_predict_plays_as_evaluation_does(env: Any, core: str, tmp_path: Path) -> None:
    agent = train(env=env, core=core, max_episode_steps=8, run_dir=str(tmp_path / "run"), **SMALL)
    own, state = agent.make_env(), None
    for result in play_episodes(agent.loaded, 2):
        observation, _ = own.reset(seed=result.seed)
        total, reward, over, is_first = 0.0, 0.0, False, True
        while not over:
            action, state = agent.predict(observation, state, is_first, reward)
            observation, paid, terminated, truncated, _ = own.step(action)
            reward, over, is_first = float(paid), terminated or truncated, False
            total += reward
        assert total == pytest.approx(result.episode_return, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("core", ["lstm", "gru", "mnm-p"])
def test_the_exported_step_answers_the_same(core: str, tmp_path: Path) -> None:
    agent = train(env="mnm/TMaze-v0", core=core, run_dir=str(tmp_path / "run"), **SMALL)
    step = agent.export(tmp_path / "step.pt2")
    program = torch.export.load(tmp_path / "step.pt2").module()
    obs, first, action, reward, state = step.example(agent.door)
    generator = torch.Generator().manual_seed(0)
    answers: list[Any] = []
    with torch.no_grad():
        for t in range(12):
            obs = {key: torch.rand(value.shape, generator=generator) for key, value in obs.items()}
            first = torch.tensor([t in (0, 7)])
            ours = step(obs, first, action, reward, state)
            theirs = program(obs, first, action, reward, state)
            for one, other in zip(
                (ours[0], ours[1], *ours[2]), (theirs[0], theirs[1], *theirs[2]), strict=True
            ):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
            answers.append(ours[0])
            state, action, reward = ours[2], ours[0].argmax(-1), torch.rand(1, generator=generator)
    assert not torch.equal(answers[0], answers[1])


def test_a_core_that_draws_is_not_exported(tmp_path: Path) -> None:
    agent = train(env="mnm/TMaze-v0", core="hard", run_dir=str(tmp_path / "run"), **SMALL)
    with pytest.raises(UserError, match="the core hard chooses at random and cannot be exported"):
        agent.export(tmp_path / "step.pt2")


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_example_of_an_own_environment_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    import own_environment

    assert 0.0 <= own_environment.main(total_steps=256, run_dir=str(tmp_path / "run")) <= 1.0


@pytest.mark.slow
def test_the_example_of_deployment_runs(tmp_path: Path) -> None:
    assert example("deploy").main(exported=str(tmp_path / "step.pt2")) > 0.0


@pytest.mark.slow
def test_the_example_of_recalls_finds_the_answers_in_the_tape(tmp_path: Path) -> None:
    assert example("recalls").main(folder=str(tmp_path)) == 1.0
    assert {file.name for file in tmp_path.iterdir()} == {"recall.gif", "recall.html", "episode.npz"}
