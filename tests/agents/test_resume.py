"""Determinism and resume: equal seeds give equal weights, and N + M updates equal N, a new process, M."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checks import same
from forked import run

from agents.checkpoint import load_checkpoint
from agents.config import TrainConfig
from agents.metrics import read_metrics
from agents.trainer import Trainer

pytestmark = pytest.mark.slow

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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an uninterrupted run of every case."""
    directory = tmp_path_factory.mktemp("whole")
    for number, case in enumerate(CASES):
        train(case, directory / str(number))
    return directory


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs, interrupted, and all continued by one new process."""
    directory = tmp_path_factory.mktemp("parts")
    for number, case in enumerate(CASES):
        train(case, directory / str(number), stop_after=FIRST)
    go_on = (
        "import sys, train_rl\n"
        "sys.exit(any([train_rl.main(['--run-dir', run, '--resume']) for run in sys.argv[1:]]))"
    )
    done = run("-c", go_on, *(str(directory / str(number)) for number in range(len(CASES))))
    assert done.returncode == 0, done.stderr
    return directory


NUMBERS = [pytest.param(number, id=case) for number, case in enumerate(CASES)]


@pytest.mark.parametrize("number", NUMBERS)
def test_two_runs_with_the_same_seed_end_bit_identical(number: int, whole: Path, tmp_path: Path) -> None:
    train(list(CASES)[number], tmp_path / "again")
    assert same(state_of(whole / str(number)), state_of(tmp_path / "again"))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_resume_in_a_new_process_equals_no_interruption_bit_for_bit(
    number: int, whole: Path, resumed: Path
) -> None:
    """Weights, optimiser, random streams, environments, recurrent state and counters, all at once."""
    runs = [directory / str(number) for directory in (whole, resumed)]
    assert same(*map(state_of, runs))
    columns = ("updates", "frames", "return_mean", "policy_loss", "value_loss", "meta_loss", "grad_norm")
    logs = [[[row[c] for c in columns] for row in read_metrics(run / "metrics.csv")] for run in runs]
    assert len(logs[0]) == ALL
    assert same(*logs)


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
