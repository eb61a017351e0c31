"""Agents trained elsewhere: played, evaluated and asked what they remember, as the agents of this toolkit are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import action_envs  # noqa: F401 (registers)
import numpy as np
import pytest
import torch
from checks import refusal
from hand_built import state_agent
from viewer_page import page_data

import evaluate
from agents.config import TrainConfig
from agents.elsewhere import Elsewhere, flatten, load_elsewhere, make_foreign, parameters_of
from agents.evaluation import LoadedAgent, play_episodes
from envs import make_single
from envs.errors import UserError
from recall.record.tape import Tape
from recall.scores.steps import step_effect
from recall.validate.planted import play_planted
from recall.validate.validity import check_recall

CPU = torch.device("cpu")
EXAMPLE = "examples.lstm_agent:make_agent"
ENV = ["--env", "mnm/TMaze-v0", "--env-kwargs", '{"length": 5}']


class Ours:
    """An agent of this toolkit behind the protocol of those trained elsewhere; its state is nested on purpose."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def initial_state(self, batch_size: int) -> Any:
        core = self.model.core.initial_state(batch_size)
        return {"h": core.h, "rest": [core.c]}

    def step(self, obs: Any, state: Any, is_first: torch.Tensor) -> Any:
        core = type(self.model.core.initial_state(1))(state["h"], state["rest"][0])
        nothing = SimpleNamespace(action=torch.full((len(is_first),), -1), reward=torch.zeros(len(is_first)))
        x_t = self.model.encoder({"obs": obs}, is_first, nothing.action, nothing.reward)
        with torch.no_grad():
            output, after = self.model.core.step(x_t, core)
            policy, value = self.model.heads(output.features, {})
        distribution = torch.distributions.Categorical(logits=policy.parameters)
        return distribution, value[:, None], {"h": after.h, "rest": [after.c]}


def wrapped(agent: LoadedAgent) -> LoadedAgent:
    env = make_single(agent.config.env, agent.config.env_arguments())
    model: Any = Elsewhere(Ours(agent.model), env, "test:agent")
    env.close()
    return LoadedAgent(model, agent.config, 0, "elsewhere", can_be_made_anew=False)


def test_an_agent_behind_the_protocol_plays_and_recalls_as_itself() -> None:
    ours = state_agent()
    theirs = wrapped(ours)
    played = [[str(r) for r in play_episodes(agent, 5, num_envs=2)] for agent in (ours, theirs)]
    assert played[0] == played[1]
    sampled = [[str(r) for r in play_episodes(agent, 3, "sample")] for agent in (ours, theirs)]
    assert sampled[0] == sampled[1]
    tapes = [play_planted(agent, 1, 0)[0].tape for agent in (ours, theirs)]
    effects = [step_effect(agent.model, tape) for agent, tape in zip((ours, theirs), tapes, strict=True)]
    assert effects[0].divergence.max() > 1.0
    np.testing.assert_allclose(effects[0].divergence, effects[1].divergence, rtol=0, atol=1e-6)
    np.testing.assert_allclose(effects[0].value_change, effects[1].value_change, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_its_recalls_are_checked() -> None:
    report = check_recall(wrapped(state_agent()), 6)
    outcomes = {check.name: check.outcome for check in report.checks}
    assert outcomes.pop("untrained agent") == "NOT APPLICABLE"
    assert outcomes.pop("memory not used where all is visible") == "NOT APPLICABLE"
    assert set(outcomes.values()) == {"PASS"}
    assert report.verdict.startswith("VALID")


@pytest.mark.slow
def test_the_example_is_evaluated_and_shown(tmp_path: Path) -> None:
    files = {name: str(tmp_path / f"a.{name}") for name in ("gif", "html", "json")} | {
        "tape": str(tmp_path / "a.npz")
    }
    asked = [word for name, path in files.items() for word in (f"--{name}", path)]
    assert evaluate.main(["--agent", EXAMPLE, *ENV, "--episodes", "3", "--policy", "sample", *asked]) == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert (result["core"], result["episodes"], len(result["returns"])) == (EXAMPLE, 3, 3)
    data = page_data(tmp_path / "a.html")
    assert list(data["scores"]) == ["step"]
    tape = Tape.load(tmp_path / "a.npz")
    assert tape.core == EXAMPLE
    assert float(tape.reward.sum()) == pytest.approx(result["returns"][0])
    assert (tmp_path / "a.gif").stat().st_size > 1000


def test_weights_reach_the_example(tmp_path: Path) -> None:
    env = TrainConfig(env="mnm/TMaze-v0")
    first = load_elsewhere(EXAMPLE, env, '{"seed": 3}', CPU).model
    torch.save(first.agent.state_dict(), tmp_path / "w.pt")
    second = load_elsewhere(EXAMPLE, env, json.dumps({"weights": str(tmp_path / "w.pt")}), CPU).model
    for a, b in zip(first.agent.parameters(), second.agent.parameters(), strict=True):
        assert torch.equal(a, b)


# Every action space ------------------------------------------------------------------------------------------------


class Indifferent:
    """Answers any space with the same distribution; keeps no state."""

    def __init__(self, distribution: Any) -> None:
        self.distribution = distribution

    def initial_state(self, batch_size: int) -> None:
        return None

    def step(self, obs: Any, state: Any, is_first: torch.Tensor) -> Any:
        return self.distribution(len(is_first)), None, None


D = torch.distributions
ANSWERS: dict[str, Any] = {
    "shifted": lambda b: torch.zeros(b, 3),
    "multidiscrete": lambda b: (
        D.Categorical(logits=torch.zeros(b, 3)),
        D.Categorical(logits=torch.zeros(b, 2)),
    ),
    "multibinary": lambda b: D.Bernoulli(logits=torch.zeros(b, 3)),
    "box": lambda b: D.Independent(D.Normal(torch.zeros(b, 2), torch.ones(b, 2)), 1),
    "tuple": lambda b: (
        D.Categorical(logits=torch.zeros(b, 2)),
        D.Normal(torch.zeros(b, 1), torch.ones(b, 1)),
    ),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_every_action_space(kind: str) -> None:
    config = TrainConfig(env="Acts-v0", env_kwargs=json.dumps({"kind": kind}))
    env = make_single(config.env, config.env_arguments())
    model: Any = Elsewhere(Indifferent(ANSWERS[kind]), env, "x")
    results = play_episodes(LoadedAgent(model, config, 0, "x"), 2, "sample")
    assert [result.length for result in results] == [6, 6]


def test_distributions_become_parameters() -> None:
    logits, probs = torch.randn(2, 3), torch.rand(2, 2)
    assert torch.equal(parameters_of(logits), logits)
    categorical = parameters_of(D.Categorical(logits=logits))
    torch.testing.assert_close(categorical.softmax(-1), logits.softmax(-1))
    bernoulli = parameters_of(D.Bernoulli(probs)).unflatten(-1, (2, 2)).softmax(-1)
    torch.testing.assert_close(bernoulli[..., 1], probs)
    first, second = (
        D.Normal(torch.full((2, 1), m), torch.full((2, 1), s)) for m, s in ((1.0, 2.0), (3.0, 4.0))
    )
    both = parameters_of((D.Categorical(logits=logits), first, second))
    np.testing.assert_allclose(both[0, 3:], [1.0, 3.0, np.log(2.0), np.log(4.0)], rtol=1e-6)
    assert parameters_of("left") is None


def test_a_nested_state_is_put_together_again() -> None:
    state = {"a": torch.ones(2, 1), "b": (torch.zeros(2), [torch.ones(2, 2), None])}
    parts, rebuild = flatten(state)
    assert len(parts) == 3
    again = rebuild(list(parts))
    assert again["b"][1][1] is None
    assert again["a"] is not None
    assert torch.equal(again["b"][1][0], torch.ones(2, 2))
    with pytest.raises(UserError, match="the state of an agent is a str"):
        flatten(("h", torch.ones(2)))


# Mistakes ---------------------------------------------------------------------------------------------------------

BROKEN = """
import torch

class Agent:
    def __init__(self, answer, state=lambda b: torch.zeros(b, 2)):
        self.answer, self.initial_state = answer, state
    def step(self, obs, state, is_first):
        return self.answer(obs, state)

def good(o, a): return Agent(lambda obs, state: (torch.zeros(len(obs), 3), None, state))
def pair(o, a): return Agent(lambda obs, state: (torch.zeros(len(obs), 3), state))
def wide(o, a): return Agent(lambda obs, state: (torch.zeros(len(obs), 5), None, state))
def word(o, a): return Agent(lambda obs, state: ("left", None, state))
def nans(o, a): return Agent(lambda obs, state: (torch.full((len(obs), 3), float("nan")), None, state))
def grows(o, a): return Agent(lambda obs, state: (torch.zeros(len(obs), 3), None, torch.cat([state, state], 1)))
def values(o, a): return Agent(lambda obs, state: (torch.zeros(len(obs), 3), torch.zeros(len(obs), 3), state))
def layers(o, a): return Agent(None, lambda b: torch.zeros(1, b, 2))
def raises(o, a): return Agent(lambda obs, state: obs["missing"])
def stateless(o, a): return object()
def refuses(o, a, path): raise OSError("no weights at " + path)
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "broken_agents.py").write_text(BROKEN)
    sys.path.insert(0, str(folder))
    return "broken_agents"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("pair", "step gives a tuple of 2; expected (distribution, value, state)"),
        ("wide", "parameters of shape [3, 5]; this environment asks for [3, 3]"),
        ("word", "step gives a str as its distribution; expected logits, or a Categorical"),
        ("nans", "parameters that are not numbers"),
        ("grows", "step gives a state of shapes [[3, 4]], it was given one of [[3, 2]]"),
        ("values", "step gives a value of shape [3, 3]; expected [3]"),
        ("layers", "initial_state(2) gives a tensor of shape [1, 2, 2]; expected the batch first"),
        ("raises", "step raised IndexError: "),
        ("stateless", "gives a object without initial_state()"),
        ("refuses", "refuses raised TypeError: "),
        ("gone", "has no function 'gone'; it has Agent, good, pair"),
    ],
)  # fmt: skip
def test_a_broken_agent_is_refused_in_one_line(function: str, expected: str, broken: str) -> None:
    message = refusal(evaluate.main, "--agent", f"{broken}:{function}", *ENV, "--episodes", "3")
    assert expected in message
    assert f"{broken}:{function}" in message


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--agent", "x:y"], "--agent needs --env"),
        (["--agent", "nowhere", *ENV], "write module:make_agent"),
        (
            ["--agent", "nowhere_at_all:make", *ENV],
            "cannot import module 'nowhere_at_all' of 'nowhere_at_all:make'",
        ),
        (["runs/x", "--agent", "x:y", *ENV], "takes the place of a run; leave out runs/x"),
        (["--agent", EXAMPLE, *ENV, "--agent-kwargs", "[1]"], "--agent-kwargs must be a JSON object"),
        (["--agent", EXAMPLE, *ENV, "--agent-kwargs", '{"depth": 3}'], "unexpected keyword argument 'depth'"),
        (["--agent", EXAMPLE, *ENV, "--forget", "memory"], "--forget takes apart cores that write"),
        (["--agent", EXAMPLE, *ENV, "--score", "removal", "--gif", "x.gif"], "does not apply to the core"),
        (["--agent", "sb3:nothing.zip", *ENV], "runs code that it holds (pickles): add --trust"),
        (["runs/x", "--trust"], "--trust is for --agent"),
    ],
)
def test_a_bad_command_is_refused_in_one_line(argv: list[str], expected: str) -> None:
    assert expected in refusal(evaluate.main, *argv)


def test_the_protocol_is_told_where_episodes_begin() -> None:
    """The state of rows that open an episode is the initial one, whatever was there before."""
    env = make_single("mnm/TMaze-v0")
    seen: list[Any] = []

    class Spy(Indifferent):
        def initial_state(self, batch_size: int) -> Any:
            return torch.zeros(batch_size, 2)

        def step(self, obs: Any, state: Any, is_first: torch.Tensor) -> Any:
            seen.append((state.clone(), is_first.clone()))
            return torch.zeros(len(obs), 3), None, state + 1

    agent = Elsewhere(Spy(None), env, "spy")
    state = agent.initial_state(2)
    obs = {"obs": torch.zeros(2, 4)}
    out = agent.act(obs, torch.tensor([True, True]), state)
    out = agent.act(obs, torch.tensor([False, True]), out.state)
    assert [x.tolist() for x, _ in seen] == [[[0, 0], [0, 0]], [[1, 1], [0, 0]]]
    assert make_foreign.__doc__
