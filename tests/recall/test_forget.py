"""`evaluate.py --forget`: how well an agent does that loses a part of what it carries, after every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import evaluate
import train_rl
from agents.evaluation import LoadedAgent, load_agent
from benchmarks.studies import memory_deletion
from envs import held_out_seed, make_single
from envs.errors import UserError

pytestmark = pytest.mark.slow

MEMORY = ("delta1", "delta2", "delta3")
CARRIED = ("h", "c", "value_read")
EPISODES = 8
"""Enough for an untrained agent to act differently in one of them, whatever the last bits of a machine are."""
LOST = {"nothing": (), "memory": MEMORY, "controller": CARRIED, "both": MEMORY + CARRIED}
TINY = ["--env", "mnm/RepeatPrevious-v0", "--num-envs", "16", "--rollout-steps", "32", "--hidden-size", "16",
        "--embedding-size", "16", "--memory-size", "16", "--learning-rate", "1e-2", "--gamma", "0",
        "--interaction-gain", "3", "--meta-coef", "0", "--algo", "a2c", "--total-steps", "20000"]  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a core that writes, far enough from its first weights to mean what it does."""
    path = tmp_path_factory.mktemp("runs") / "writer"
    assert train_rl.main([*TINY, "--core", "mnm-p", "--run-dir", str(path)]) == 0
    return path


@torch.no_grad()
def episode_by_hand(agent: LoadedAgent, number: int, lost: tuple[str, ...]) -> float:
    """Return of held-out episode `number`: one environment, one row, the lost parts set to zero after every step."""
    env = make_single(agent.config.env, agent.config.env_arguments())
    obs, _ = env.reset(seed=held_out_seed(0, number))
    state, is_first, ended, total = agent.model.initial_state(1), torch.tensor([True]), False, 0.0
    while not ended:
        row = {key: torch.from_numpy(value)[None] for key, value in obs.items()}
        out = agent.model.act(row, is_first, state)
        action = int(out.logits.argmax())
        obs, reward, terminated, truncated, _ = env.step(action)
        total, ended, is_first = total + float(reward), terminated or truncated, torch.tensor([False])
        state = agent.model.after(out.state, torch.tensor([action]), torch.tensor([float(reward)]))
        core = {name: torch.zeros_like(getattr(state.core, name)) for name in lost}
        state = state._replace(core=state.core._replace(**core))
    return total


@pytest.mark.parametrize("what", LOST)
def test_forgetting_equals_an_episode_played_by_hand(what: str, run_dir: Path, tmp_path: Path) -> None:
    found = tmp_path / "result.json"
    assert (
        evaluate.main([str(run_dir), "--episodes", str(EPISODES), "--forget", what, "--json", str(found)])
        == 0
    )
    result = json.loads(found.read_text())
    agent = load_agent(run_dir, "latest", torch.device("cpu"))
    assert result["forget"] == what
    assert result["returns"] == pytest.approx(
        [episode_by_hand(agent, n, LOST[what]) for n in range(EPISODES)]
    )


def test_what_is_lost_makes_a_difference_here(run_dir: Path) -> None:
    """Otherwise the test above would pass with every --forget doing the same."""
    agent = load_agent(run_dir, "latest", torch.device("cpu"))
    played = {tuple(episode_by_hand(agent, n, lost) for n in range(EPISODES)) for lost in LOST.values()}
    assert len(played) >= 3


def test_forgetting_is_refused_where_it_means_nothing(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which --gif does not show"):
        evaluate.main([str(run_dir), "--forget", "memory", "--gif", str(tmp_path / "x.gif")])
    lstm = tmp_path / "lstm"
    assert train_rl.main([*TINY, "--core", "lstm", "--total-steps", "512", "--run-dir", str(lstm)]) == 0
    with pytest.raises(UserError, match=r"cores that write .* this is lstm"):
        evaluate.main([str(lstm), "--forget", "memory"])


def test_the_table_names_every_agent_and_what_it_lost(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_deletion, "RESULTS", tmp_path / "forgetting.csv")
    assert memory_deletion.main(["--agents", str(run_dir), "--episodes", "2"]) == 0
    line = next(line for line in memory_deletion.table().splitlines() if line.startswith("| writer |"))
    assert line.count("(") == len(LOST), "four figures, each with its interval"
    assert memory_deletion.main(["--agents", str(run_dir), "--episodes", "2"]) == 0
    assert memory_deletion.table().count("| writer |") == 1, "measured again, it replaces its row"
