"""The profile: its shares add up, it changes no number of the run, and it ends with its block."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from rich.console import Console

from agents.config import TrainConfig
from agents.profile import Profile, Stopwatch, region
from agents.trainer import Trainer


def trainer_at(path: Path) -> Trainer:
    config = TrainConfig(
        run_dir=str(path), core="lstm", hidden_size=8, embedding_size=8, num_envs=4, rollout_steps=8,
        minibatches=2, epochs=2, total_steps=64, previous_inputs=False, device="cpu",
    )  # fmt: skip
    return Trainer(config)


def test_phases_and_parts_add_up_and_are_written(tmp_path: Path) -> None:
    trainer, profile = trainer_at(tmp_path / "run"), Profile()
    with profile:
        assert trainer.run()
    trainer.close()
    rows = {row.phase: row for row in profile.rows(64)}
    assert all(row.seconds > 0.0 for row in rows.values())
    parts = sum(row.seconds for name, row in rows.items() if name.startswith("learn:"))
    assert parts == pytest.approx(rows["learn"].seconds)
    whole = sum(rows[name].share for name in ("act", "env", "learn", "other"))
    assert whole == pytest.approx(1.0)
    assert rows["all"].frames_per_s * rows["all"].seconds == pytest.approx(64)

    console = Console(record=True, width=100)
    profile.report(64, console, tmp_path / "profile.csv")
    assert "core forward" in console.export_text()
    with (tmp_path / "profile.csv").open(newline="") as file:
        assert [row["phase"] for row in csv.DictReader(file)] == list(rows)


def test_a_profile_changes_no_number_and_ends_with_its_block(tmp_path: Path) -> None:
    plain, profiled, profile = trainer_at(tmp_path / "plain"), trainer_at(tmp_path / "profiled"), Profile()
    with profile:
        assert profiled.run()
    learned = profile.seconds["learn"]
    assert learned > 0.0
    assert plain.run()
    assert profile.seconds["learn"] == learned
    for mine, theirs in zip(profiled.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    plain.close()
    profiled.close()


def test_regions_count_for_every_stopwatch_that_runs_and_for_no_other() -> None:
    outer, inner = Stopwatch(), Stopwatch()
    with region("before"), outer:
        with region("both"), inner, region("nested"):
            pass
        with inner, region("again"):
            pass
    assert set(outer.seconds) == {"both", "nested", "again"}
    assert set(inner.seconds) == {"nested", "again"}
    assert outer.seconds["both"] >= outer.seconds["nested"] == inner.seconds["nested"]
