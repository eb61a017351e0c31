"""`--ranks`: how many ranks there are, and that one command starts them, trains, stops and says what is wrong."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from checks import refusal, same
from forked import Command, run

import train_rl
from agents.checkpoint import load_checkpoint
from agents.launch import physical_cores, rank_count
from agents.metrics import read_metrics
from envs.errors import UserError

TINY = ["--num-envs", "4", "--rollout-steps", "10", "--minibatches", "2", "--epochs", "1", "--core", "lstm",
        "--hidden-size", "8", "--embedding-size", "8", "--log-every", "1", "--device", "cpu"]  # fmt: skip


def topology(tmp_path: Path, siblings: dict[int, str]) -> Path:
    for cpu, text in siblings.items():
        place = tmp_path / f"cpu{cpu}" / "topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(text + "\n")
    return tmp_path


def test_two_threads_of_a_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    found = topology(tmp_path, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"})
    assert physical_cores(found) == 2
    assert physical_cores(tmp_path / "none") == 4, "without a topology every CPU counts"


@pytest.mark.parametrize(
    ("cores", "num_envs", "expected"), [(4, 64, 4), (6, 64, 4), (3, 64, 2), (8, 7, 7), (2, 7, 1)]
)
def test_auto_takes_the_cores_that_share_the_environments(
    cores: int, num_envs: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.launch.physical_cores", lambda: cores)
    assert rank_count("auto", num_envs, "cpu") == expected


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5", ""])
def test_a_number_that_is_none_is_refused(asked: str) -> None:
    with pytest.raises(UserError, match="--ranks must be a whole number from 1, or auto"):
        rank_count(asked, 4, "cpu")


def test_what_is_wrong_is_said_before_any_rank_starts(tmp_path: Path) -> None:
    run = ["--run-dir", str(tmp_path / "run"), "--ranks", "3"]
    assert "3 ranks cannot share it equally; nearest: 3 or 6" in refusal(train_rl.main, *TINY, *run)
    assert "unknown core 'lstn'" in refusal(train_rl.main, *TINY, *run, "--core", "lstn")
    assert not (tmp_path / "run").exists()


def command(folder: Path, *more: str) -> list[str]:
    return ["train_rl.py", *TINY, "--run-dir", str(folder), *more]


@pytest.mark.slow
def test_two_ranks_make_the_updates_of_one_process(tmp_path: Path) -> None:
    frames = ["--total-steps", "80"]
    for name, ranks in (("one", "1"), ("two", "2")):
        done = run(*command(tmp_path / name, *frames, "--ranks", ranks))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Done: 80 frames") == 1
    models = [
        load_checkpoint(tmp_path / name / "checkpoints" / "latest.pt")["model"] for name in ("one", "two")
    ]
    assert all(torch.allclose(models[0][key], models[1][key], atol=1e-6) for key in models[0])


@pytest.mark.slow
def test_ctrl_c_stops_all_ranks_with_a_checkpoint_that_continues(tmp_path: Path) -> None:
    path = tmp_path / "run"
    words = command(path, "--total-steps", "10000000", "--ranks", "2")
    process = Command(*words, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (path / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in errors
    before = read_metrics(path / "metrics.csv")
    frames = str(int(before[-1]["frames"]) + 40)
    assert train_rl.main(["--run-dir", str(path), "--resume", "--total-steps", frames]) == 0
    assert same(before, read_metrics(path / "metrics.csv")[: len(before)])
