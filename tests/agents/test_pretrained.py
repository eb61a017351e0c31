"""Published agents and warm starts: the same numbers as the run they come from, and no damaged file accepted."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.config import TrainConfig
from agents.evaluation import load_agent, moved_to, play_episodes
from agents.pretrained import WEIGHTS, find_agent, save_weights
from agents.trainer import Trainer
from benchmarks.report.seed_statistics import wilson
from benchmarks.tools import publish
from envs.errors import UserError
from recall.validate.validity import check_recall
from train_rl import read_command

CPU = torch.device("cpu")
PUBLISHED = sorted(path.parent for path in (publish.ROOT / "pretrained").glob(f"*/{WEIGHTS}"))


def small(run_dir: Path, **options: object) -> TrainConfig:
    values = {
        "env": "mnm/GridMaze9-v0",
        "env_kwargs": '{"max_steps": 50}',
        "core": "mnm-p",
        "total_steps": 128,
        "num_envs": 8,
        "rollout_steps": 8,
    }
    return TrainConfig(**{**values, "memory_size": 8, "hidden_size": 16, **options}, run_dir=str(run_dir))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "maze"
    trainer = Trainer(small(path))
    trainer.run()
    trainer.close()
    return path


def publish_to(root: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(publish, "ROOT", root)
    publish.main([str(run_dir), "--name", "tiny", "--episodes", "2", "--recall-episodes", "2"])
    return root / "pretrained" / "tiny"


@pytest.mark.slow
def test_a_published_agent_plays_as_its_run_does(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = publish_to(tmp_path, run_dir, monkeypatch)
    ours, theirs = load_agent(run_dir, "latest", CPU), load_agent(there, "latest", CPU)
    assert theirs.frames == ours.frames == 128
    played = [
        [(r.seed, r.episode_return) for r in play_episodes(agent, 2, "sample")] for agent in (ours, theirs)
    ]
    assert played[0] == played[1]
    card = (there / "README.md").read_text()
    command = next(line for line in card.splitlines() if "python train_rl.py" in line)
    config, _ = read_command(shlex.split(command)[2:])
    assert dataclasses.replace(config, run_dir=None, threads=1) == dataclasses.replace(
        ours.config, run_dir=None
    )
    assert "| mnm/GridMaze9-v0 | greedy | 2 |" in card
    assert "`--check-recall` on 2 held-out episodes" in card
    publish.main([str(there), "--recall-episodes", "2", "--recalls-only"])
    assert (there / "README.md").read_text() == card
    with pytest.raises(UserError, match="has no card"):
        publish.main([str(run_dir), "--recalls-only"])


@pytest.mark.slow
def test_a_card_names_the_control_agent(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    options = ["--name", "tiny", "--episodes", "2", "--recall-episodes", "2", "--control"]
    publish.main([str(run_dir), *options, str(run_dir)])
    assert (
        "The control agent was trained with" in (tmp_path / "pretrained" / "tiny" / "README.md").read_text()
    )
    with pytest.raises(UserError, match="not a run directory"):
        publish.main([str(run_dir), "--name", "other", "--control", str(tmp_path)])
    assert not (tmp_path / "pretrained" / "other").exists()


def test_a_damaged_weight_file_gives_one_line(run_dir: Path, tmp_path: Path) -> None:
    agent = load_agent(run_dir, "latest", CPU)
    save_weights(tmp_path, agent.model.state_dict(), 5)
    (tmp_path / "config.json").write_text((run_dir / "config.json").read_text())
    file = tmp_path / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated or not the weights"):
        load_agent(tmp_path, "latest", CPU)


def test_a_name_that_no_file_can_have_is_one_line() -> None:
    for name in ("9" * 300, "/" + "9" * 300):
        with pytest.raises(UserError, match="cannot be the name of an agent: File name too long"):
            find_agent(Path(name))


def test_weights_of_more_than_three_megabytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than the 3,000,000"):
        save_weights(tmp_path, {"w": torch.zeros(800_000)}, 0)


def test_a_warm_start_begins_with_the_weights_and_nothing_else(run_dir: Path, tmp_path: Path) -> None:
    trainer = Trainer(small(tmp_path / "new", warm_start=str(run_dir), seed=5))
    wanted = load_agent(run_dir, "latest", CPU).model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in trainer.model.state_dict().items())
    assert (trainer.collector.frames, trainer.updates, trainer.learner.optimizer.state_dict()["state"]) == (
        0,
        0,
        {},
    )
    trainer.close()


def test_a_warm_start_from_another_architecture_names_the_difference_and_leaves_no_run(
    run_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="another architecture"):
        Trainer(small(tmp_path / "new", warm_start=str(run_dir), hidden_size=32))
    assert not (tmp_path / "new").exists()


def test_an_agent_moves_only_to_an_environment_that_looks_the_same(run_dir: Path) -> None:
    agent = load_agent(run_dir, "latest", CPU)
    assert moved_to(agent, "mnm/GridMaze11-v0").config.env == "mnm/GridMaze11-v0"
    with pytest.raises(UserError, match="other observations or actions than mnm/GridMaze9-v0"):
        moved_to(agent, "mnm/TMaze-v0")


@pytest.mark.slow
@pytest.mark.parametrize("directory", PUBLISHED, ids=lambda path: path.name)
def test_every_published_agent_does_what_its_card_says(directory: Path) -> None:
    """200 fresh levels agree with the stated figure (99.9% interval: many agents, one suite)."""
    agent = load_agent(directory, "latest", CPU)
    stated = next(
        row
        for row in json.loads((directory / "config.json").read_text())["figures"]
        if row["policy"] == "greedy" and row["env"] == agent.config.env
    )
    results = play_episodes(agent, 200, "greedy", seed=publish.EVALUATION_SEED + 1, num_envs=200)
    if stated["success_rate"] is not None:
        low, high = wilson(round(sum(r.success for r in results)), 200, z=3.29)
        assert low <= stated["success_rate"] <= high
    else:
        returns = np.array([r.episode_return for r in results])
        assert (
            abs(returns.mean() - stated["return_mean"]) < 3.29 * returns.std() * (1 / 200 + 1 / 1000) ** 0.5
        )


@pytest.mark.slow
def test_the_agent_of_the_validity_page_passes_the_recall_check() -> None:
    found = check_recall(
        load_agent(publish.ROOT / "pretrained" / "three-arms-mnm-p", "latest", CPU), 40, seed=2
    )
    assert found.verdict.startswith("VALID"), found.verdict
