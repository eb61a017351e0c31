"""A run that goes on elsewhere: other devices, numbers of environments, steps; and what its logs look like there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import refusal
from forked import run as run_to_end

import train_rl
from agents.checkpoint import load_checkpoint
from agents.config import TrainConfig
from agents.metrics import read_metrics
from agents.run_dir import announce_modules

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--env", "mnm/GridMaze9-v0", "--core", "none", "--num-envs", "4", "--rollout-steps", "9", "--hidden-size", "16",
        "--embedding-size", "16", "--log-every", "1"]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two updates, in a directory whose name has brackets and a space."""
    path = tmp_path / "lr[decay] x[/y]"
    argv = ["--anneal", "--learning-rate", "7e-4", "--total-steps", "72", "--run-dir", str(path)]
    assert train_rl.main([*TINY, *argv]) == 0
    return path


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert train_rl.main(list(argv)) == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_checkpoint_of_a_gpu_goes_on_with_a_new_random_stream(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "checkpoints" / "latest.pt"
    torch.save(
        {**load_checkpoint(path), "format": 1, "action_generator": torch.zeros(16, dtype=torch.uint8)}, path
    )
    text = said(capsys, "--resume", "--run-dir", str(run), "--total-steps", "108")
    assert "saved on another kind of device: its random stream begins anew" in text


@pytest.mark.parametrize("number", [2, 6])
def test_another_number_of_environments_is_said(
    number: int, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "--resume",
        "--run-dir",
        str(run),
        "--num-envs",
        str(number),
        "--minibatches",
        "2",
        "--total-steps",
        "200",
    ]
    assert f"The run had 4 environments and goes on with {number}: episodes start anew." in said(
        capsys, *argv
    )
    assert [row["updates"] for row in read_metrics(run / "metrics.csv")][:3] == [1, 2, 3]


def test_a_jump_of_the_learning_rate_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "--resume", "--run-dir", str(run), "--total-steps", "144")
    assert "The learning rate jumps here from 0 to 0.00035" in text
    assert "no episode has ended: 36 steps and return" in text
    assert "jumps" not in said(capsys, "--resume", "--run-dir", str(run))


def test_a_module_that_a_run_names_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    announce_modules(TrainConfig(env="my_envs:X-v0"), tmp_path)
    assert capsys.readouterr().err == f"importing my_envs, named by {tmp_path / 'config.json'}\n"


def test_names_are_printed_as_they_are_and_hints_can_be_typed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, "--resume", "--run-dir", str(run))
    assert f"run directory: {run} " in text
    assert f"evaluate.py '{run}'" in text


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"FORCE_COLOR": "1"}, {"PYTHONIOENCODING": "ascii"}, {"COLUMNS": "20"}])
def test_a_log_file_holds_whole_lines_and_nothing_drawn(more: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / ("long" * 40)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    words = ["train_rl.py", *TINY, "--total-steps", "72", "--run-dir", str(path)]
    if "PYTHONIOENCODING" in more:  # the interpreter reads it before anything else
        command = [sys.executable, *words]
        done: Any = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    else:
        done = run_to_end(*words, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"  run directory: {path}\n" in done.stdout
    assert len(done.stdout) < 6000
    assert not any(sign in done.stdout for sign in ("\r", "\x1b[?25l", "\x1b[2K", "│"))


SIZES: list[tuple[list[str], str]] = [
    (
        [
            "--core",
            "lstm",
            "--hidden-size",
            "65_536",
            "--num-envs",
            "100_000",
            "--rollout-steps",
            "1_000_000",
        ],
        "GB of",
    ),
    (["--num-envs", "1e9"], "--num-envs must be at most 100,000"),
    (["--env-kwargs", "[" * 100_000], "not JSON"),
    (["--env-kwargs", '{"side": ' + "9" * 5000 + "}"], "not JSON"),
    (["--total-steps", "1e400"], "not a whole number"),
    (["--rank-timeout", "soon"], "--rank-timeout must be a number of seconds"),
    (["--env-timeout", "0"], "--env-timeout must be positive"),
    (["--keep-checkpoints", "0"], "--keep-checkpoints must be at least 1"),
]


@pytest.mark.parametrize(("argv", "expected"), SIZES)
def test_what_cannot_be_done_is_refused_before_it_is_tried(
    argv: list[str], expected: str, tmp_path: Path
) -> None:
    assert expected in refusal(train_rl.main, "--core", "none", *argv, "--run-dir", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_run_directory_that_cannot_be_made_is_refused(name: str, tmp_path: Path) -> None:
    options: list[Any] = ["--core", "none", "--run-dir", str(tmp_path / name)]
    refusal(train_rl.main, *options)
    refusal(train_rl.main, *options, "--resume")
    refusal(train_rl.main, *options, "--resume-or-start")
