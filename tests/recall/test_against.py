"""Two agents on one page: the same seeds, where they part, one scale for the bars of both, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from checks import refusal
from hand_built import LENGTH, one_write_agent, state_agent
from viewer_page import numbers, page_data

import evaluate
from agents.evaluation import LoadedAgent, action_rng
from envs import held_out_seed, make_single
from envs.errors import UserError
from recall.render.against import Side, render_against, shared_scores
from recall.scores.steps import step_effect
from recall.validate.planted import play_planted

EXAMPLE = "examples.lstm_agent:make_agent"
TMAZE = ["--env", "mnm/TMaze-v0", "--env-kwargs", '{"length": 5}']


def side(name: str, agent: LoadedAgent) -> Side:
    config = agent.config

    def make_env() -> Any:
        return make_single(config.env, config.env_arguments(), render_mode="rgb_array")

    return Side(name, config.core, agent.model, make_env)


@pytest.fixture(scope="module")
def agents() -> tuple[LoadedAgent, LoadedAgent]:
    """One that remembers the cue in its written memory, and one whose state forgets it: they part at the junction."""
    return one_write_agent(), state_agent(remembers=False)


@pytest.mark.slow
def test_the_page_holds_both_agents_and_where_they_part(agents: Any, tmp_path: Path) -> None:
    seeds = [held_out_seed(0, n) for n in range(2)]
    path = tmp_path / "two.html"
    pairs = render_against(
        (side("writes", agents[0]), side("forgets", agents[1])),
        seeds,
        path,
        table=[["return", "1", "0", "1"]],
    )
    data = page_data(path)
    assert data["against"]["names"] == ["writes", "forgets"]
    assert data["against"]["table"] == [["return", "1", "0", "1"]]
    assert data["against"]["pairs"] == pairs
    assert [pair["sides"] for pair in pairs] == [[0, 1], [2, 3]]
    assert list(data["scores"]) == ["step"], "what both can be asked"
    for pair in pairs:
        ours, theirs = (data["episodes"][number] for number in pair["sides"])
        assert ours["seed"] == theirs["seed"]
        done = [episode["actions"] for episode in (ours, theirs)]
        assert pair["differs"] == [t for t, (a, b) in enumerate(zip(*done, strict=False)) if a != b]
        assert pair["first"] == min(pair["differs"], default=None)
        assert ours["scores"]["step"]["scale"] == theirs["scores"]["step"]["scale"]
    assert any(pair["first"] == LENGTH for pair in pairs), "at the junction"


@pytest.mark.slow
def test_its_recalls_are_those_of_either_agent_alone(agents: Any, tmp_path: Path) -> None:
    seed = held_out_seed(0, 0)
    path = tmp_path / "two.html"
    render_against((side("a", agents[0]), side("b", agents[1])), [seed], path)
    data = page_data(path)
    for agent, episode in zip(agents, data["episodes"], strict=True):
        tape = play_planted(agent, 1, 0)[0].tape
        effect = step_effect(agent.model, tape).divergence
        entry = episode["scores"]["step"]
        steps, listed = (
            numbers(entry["writes"], "<i4").reshape(-1, 5),
            numbers(entry["listed"]).reshape(-1, 5),
        )
        shown = steps[LENGTH] >= 0
        np.testing.assert_allclose(listed[LENGTH][shown], effect[LENGTH, steps[LENGTH][shown]], rtol=1e-5)
    assert data["episodes"][0]["scores"]["step"]["scale"] > 1.0


def test_the_scores_of_a_page_suit_both() -> None:
    assert shared_scores(["written", "other"]) == ["step"]
    assert shared_scores(["other", "other"], "blank") == ["step", "blank"]
    both = shared_scores(["written", "written"])
    assert set(both) == {"step", "removal", "symmetrised", "contribution", "key"}
    assert both[-1] == "step", "the page opens with what every agent answers"
    assert shared_scores(["written", "written"], "removal")[-1] == "removal"


class Unseeded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Opens each episode somewhere else, whatever the seed."""

    opened = 0

    def reset(self, **how: Any) -> Any:
        Unseeded.opened += 1
        return super().reset(seed=Unseeded.opened)


def test_episodes_that_open_otherwise_are_refused(tmp_path: Path) -> None:
    agents = state_agent(), state_agent()
    sides = [side(name, agent) for name, agent in zip("ab", agents, strict=True)]
    broken = Side("b", sides[1].core, sides[1].model, lambda: Unseeded(sides[1].make_env()))
    Unseeded.opened = 0
    seeds = [held_out_seed(0, number) for number in range(4)]  # half of the cues are the same
    with pytest.raises(UserError, match=r"opens otherwise for a than for b"):
        render_against((sides[0], broken), seeds, tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_the_sampled_policy_draws_the_same_for_both(tmp_path: Path) -> None:
    agents = state_agent(), state_agent()
    pairs = render_against(
        (side("a", agents[0]), side("b", agents[1])), [held_out_seed(0, 1)], tmp_path / "x.html",
        policy="sample", rng_of=lambda episode: action_rng(0, episode),
    )  # fmt: skip
    assert pairs[0]["first"] is None
    assert pairs[0]["differs"] == []


# The command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_compares_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--html", str(tmp_path / "a.html"), "--json", str(tmp_path / "a.json")]
    argv = ["--agent", EXAMPLE, *TMAZE, "--against", EXAMPLE, "--against-kwargs", '{"seed": 1}']
    assert evaluate.main([*argv, "--policy", "sample", "--episodes", "3", *files]) == 0
    result = json.loads((tmp_path / "a.json").read_text())
    both = result["comparison"]
    returns = np.array(result["returns"]), np.array(result["against"]["returns"])
    assert both["return_difference"] == pytest.approx((returns[0] - returns[1]).mean())
    assert both["episodes_better"] == (returns[0] > returns[1]).sum()
    data = page_data(tmp_path / "a.html")
    assert [pair["first"] for pair in data["against"]["pairs"]] == both["first_difference"][:1]
    assert data["against"]["names"] == [f"{EXAMPLE}, {{}}", f'{EXAMPLE}, {{"seed": 1}}']
    said = " ".join(capsys.readouterr().out.split())
    assert "return" in said
    assert "difference, paired" in said
    assert "actions part in" in said


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--against", EXAMPLE], "say where with --html FILE"),
        (["--against", EXAMPLE, "--html", "x.html", "--gif", "x.gif"], "leave out --gif"),
        (["--against", EXAMPLE, "--html", "x.html", "--forget", "memory"], "which --html does not show"),
        (
            ["--against", EXAMPLE, "--html", "x.html", "--against-checkpoint", "best"],
            "--against-checkpoint is for runs",
        ),
        (
            ["--against", "runs/x", "--html", "x.html", "--against-kwargs", "{1}"],
            "--against-kwargs is for an agent",
        ),
        (["--against-checkpoint", "best"], "--against-checkpoint is for --against"),
        (["--against", "nowhere", "--html", "x.html"], "nowhere"),
        (["--against", "pretrained/maze-lstm", "--html", "x.html"], "observations or actions"),
        (["--against", "nonsense:make", "--html", "x.html"], "nonsense"),
        (["--against", "sb3:x.zip", "--html", "x.html"], "add --trust"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    argv: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(evaluate.main, "--agent", EXAMPLE, *TMAZE, *argv)
    assert expected in message
    assert not Path("x.html").exists()


def test_runs_of_other_environments_are_refused() -> None:
    message = refusal(
        evaluate.main, "pretrained/maze-lstm", "--against", "pretrained/memory-s13-lstm", "--html", "x.html"
    )
    assert "plays in MiniGrid-MemoryS13-v0, maze-lstm (lstm) in mnm/GridMaze" in message
