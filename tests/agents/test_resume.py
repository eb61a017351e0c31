"""Determinism and resume: equal seeds give equal weights, and N + M updates equal N, a new process, M."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checks import same

from agents.config import TrainConfig
from agents.run_dir import load_checkpoint, read_metrics
from agents.trainer import Trainer

SMALL: dict[str, Any] = {
    "num_envs": 4, "rollout_steps": 9, "epochs": 2, "minibatches": 2, "hidden_size": 16, "embedding_size": 16,
    "memory_size": 8, "log_every": 1, "checkpoint_every": 100, "threads": 1, "device": "cpu", "seed": 3,
}  # fmt: skip
CASES = {
    "native maze, mnm-p": {"env": "mnm/GridMaze9-v0", "env_kwargs": '{"max_steps": 13}', "core": "mnm-p"},
    "native maze, mnm-g, a2c": {"env": "mnm/GridMaze9-v0", "core": "mnm-g", "algo": "a2c"},
    "sync maze, lstm": {"env": "mnm/GridMaze9-v0", "core": "lstm", "backend": "sync"},
    "sync MiniGrid, gru": {
        "env": "MiniGrid-MemoryS7-v0", "env_kwargs": '{"max_steps": 11}', "core": "gru", "backend": "sync",
    },
    "sync repeat-previous, none": {"env": "mnm/RepeatPrevious-v0", "core": "none", "backend": "sync"},
    "native maze, hard": {"env": "mnm/GridMaze9-v0", "env_kwargs": '{"max_steps": 13}', "core": "hard"},
    "sync T-maze, hard, a2c": {
        "env": "mnm/TMaze-v0", "core": "hard", "slots": 5, "algo": "a2c", "backend": "sync",
    },
}  # fmt: skip
FIRST, ALL = 3, 6


def config(case: str, run_dir: Path) -> TrainConfig:
    total = ALL * SMALL["num_envs"] * SMALL["rollout_steps"]
    return TrainConfig(**SMALL, **CASES[case], total_steps=total, run_dir=str(run_dir))


def train(case: str, run_dir: Path, stop_after: int | None = None) -> None:
    trainer = Trainer(config(case, run_dir))
    finished = trainer.run(stop_after_updates=stop_after)
    trainer.close()
    assert finished == (stop_after is None)


def state_of(run_dir: Path) -> dict[str, Any]:
    content = load_checkpoint(run_dir / "checkpoints" / "latest.pt")
    return {
        key: content[key]
        for key in ("model", "learner", "collector", "action_generator", "frames", "updates")
    }


@pytest.mark.parametrize("case", CASES)
def test_two_runs_with_the_same_seed_end_bit_identical(case: str, tmp_path: Path) -> None:
    train(case, tmp_path / "a")
    train(case, tmp_path / "b")
    assert same(state_of(tmp_path / "a"), state_of(tmp_path / "b"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_resume_in_a_new_process_equals_no_interruption_bit_for_bit(case: str, tmp_path: Path) -> None:
    """Weights, optimiser, random streams, environments, recurrent state and counters, all at once."""
    train(case, tmp_path / "whole")
    train(case, tmp_path / "parts", stop_after=FIRST)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "train_rl.py", "--run-dir", str(tmp_path / "parts"), "--resume"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert same(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    columns = ("updates", "frames", "return_mean", "policy_loss", "value_loss", "meta_loss", "grad_norm")
    whole, parts = (read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "parts"))
    assert same([[row[c] for c in columns] for row in whole], [[row[c] for c in columns] for row in parts])


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    train("native maze, mnm-p", tmp_path / "a")
    other = Trainer(TrainConfig(**{**SMALL, "seed": 4}, **CASES["native maze, mnm-p"], total_steps=216,
                                run_dir=str(tmp_path / "b")))  # fmt: skip
    other.run()
    assert not same(state_of(tmp_path / "a")["model"], state_of(tmp_path / "b")["model"])


def test_metrics_written_after_the_checkpoint_are_forgotten_on_resume(tmp_path: Path) -> None:
    """A run that died between two checkpoints must not leave rows that the resumed run writes again."""
    case = "native maze, mnm-p"
    train(case, tmp_path / "run", stop_after=FIRST)
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    ghost = lines[-1].split(",")
    ghost[0] = str(FIRST + 1)
    (tmp_path / "run" / "metrics.csv").write_text("\n".join([*lines, ",".join(ghost)]) + "\n")
    trainer = Trainer(config(case, tmp_path / "run"), resume=True)
    trainer.run()
    updates = [row["updates"] for row in read_metrics(tmp_path / "run" / "metrics.csv")]
    assert updates == list(range(1, ALL + 1))


def test_environments_that_cannot_be_saved_start_anew(tmp_path: Path) -> None:
    """EnvPool keeps its state to itself: training goes on with new episodes, and says so."""
    pytest.importorskip("envpool")
    options = {**SMALL, "env": "MiniGrid-MemoryS7-v0", "core": "lstm", "backend": "envpool"}
    settings = TrainConfig(**options, total_steps=216, run_dir=str(tmp_path / "run"))
    first = Trainer(settings)
    first.run(stop_after_updates=FIRST)
    first.close()
    frames = first.collector.frames
    again = Trainer(settings, resume=True)
    assert again.collector.frames == frames
    assert again.collector.rollout.is_first[-1].all()
    assert again.run()
    again.close()
