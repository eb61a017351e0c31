"""The profile: its shares add up, it changes no number of the run, and nothing of it stays in another run."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from rich.console import Console

from agents.config import TrainConfig
from agents.profile import Profile
from agents.trainer import Trainer


def trainer_at(path: Path) -> Trainer:
    config = TrainConfig(
        run_dir=str(path), core="lstm", hidden_size=8, embedding_size=8, num_envs=4, rollout_steps=8,
        minibatches=2, epochs=2, total_steps=64, previous_inputs=False, device="cpu",
    )  # fmt: skip
    return Trainer(config)


def test_phases_and_parts_add_up_and_are_written(tmp_path: Path) -> None:
    trainer = trainer_at(tmp_path / "run")
    profile = Profile(trainer)
    assert trainer.run()
    trainer.close()
    rows = {row.phase: row for row in profile.rows()}
    assert all(row.seconds > 0.0 for row in rows.values())
    parts = sum(row.seconds for name, row in rows.items() if name.startswith("learn:"))
    assert parts == pytest.approx(rows["learn"].seconds)
    whole = sum(rows[name].share for name in ("act", "env", "learn", "other"))
    assert whole == pytest.approx(1.0)
    assert rows["all"].frames_per_s * rows["all"].seconds == pytest.approx(64)

    console = Console(record=True, width=100)
    profile.report(console)
    assert "core forward" in console.export_text()
    with (tmp_path / "run" / "profile.csv").open(newline="") as file:
        assert [row["phase"] for row in csv.DictReader(file)] == list(rows)


def test_a_profile_changes_no_number_and_stays_with_its_trainer(tmp_path: Path) -> None:
    plain, profiled = trainer_at(tmp_path / "plain"), trainer_at(tmp_path / "profiled")
    profile = Profile(profiled)
    assert plain.run()
    assert profile.seconds["learn"] == 0.0
    assert profiled.run()
    assert profile.seconds["learn"] > 0.0
    for mine, theirs in zip(profiled.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    plain.close()
    profiled.close()
