"""What the system refuses is one line: full disk, read-only folder, folder gone, devices in the place of files."""

from __future__ import annotations

import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train_rl
from agents.checkpoint import load_checkpoint, save_checkpoint
from agents.files import atomic_file, check_writable, write_json
from agents.metrics import MetricsFile, read_metrics
from agents.trainer import Trainer
from envs.errors import Stopped, UserError


@contextmanager
def small_disk(most: int) -> Iterator[None]:
    """No file grows beyond `most` bytes: writes fail half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def content(value: float) -> dict[str, Any]:
    return {"model": {"w": torch.full((5000,), value)}}


def test_a_full_disk_leaves_the_old_checkpoint_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "latest.pt"
    save_checkpoint(path, content(1.0), keep=2)
    with small_disk(10_000), pytest.raises(Stopped, match=r"cannot write .*latest\.pt: .*untouched"):
        save_checkpoint(path, content(2.0), keep=2)
    assert [p.name for p in path.parent.iterdir()] == ["latest.pt"]
    assert load_checkpoint(path)["model"]["w"][0] == 1.0


def test_every_writer_says_one_line(tmp_path: Path) -> None:
    with small_disk(1000):
        with pytest.raises(Stopped, match=r"cannot write .*x\.json"):
            write_json(tmp_path / "x.json", {"x": list(range(1000))})
        with pytest.raises(Stopped, match=r"cannot write .*x\.npz"), atomic_file(tmp_path / "x.npz") as file:
            np.savez(file, x=np.arange(10_000.0))
        with pytest.raises(Stopped, match=r"cannot write .*x\.pt"), atomic_file(tmp_path / "x.pt") as file:
            torch.save(torch.zeros(10_000), file)
    assert list(tmp_path.iterdir()) == []


def test_a_row_is_logged_whole_or_not_at_all(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.append({"updates": 1, "x": 2.0})
    file.append({"updates": 2, "x": 2.0})
    with small_disk(20), pytest.raises(Stopped, match=r"cannot write .*metrics\.csv"):
        file.append({"updates": 3, "x": 2.125})
    text = file.path.read_text()
    assert text.endswith("\n")
    assert [row["updates"] for row in read_metrics(file.path)] == [1, 2]


def test_a_disk_that_fills_while_training_ends_the_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, advance = tmp_path / "run", Trainer.advance

    def fill(self: Trainer) -> dict[str, float]:
        if self.updates == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        return advance(self)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(Trainer, "advance", fill)
    argv = ["--env", "mnm/GridMaze9-v0", "--core", "none", "--num-envs", "4", "--rollout-steps", "9",
            "--log-every", "1", "--checkpoint-every", "1", "--run-dir", str(run)]  # fmt: skip
    try:
        with pytest.raises(Stopped) as caught:
            train_rl.main(argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    line = str(caught.value)
    assert "\n" not in line
    assert "cannot write" in line
    assert f"--run-dir {run} --resume" in line
    assert load_checkpoint(run / "checkpoints" / "latest.pt")["updates"] == 2


def test_a_device_is_written_to_and_a_pipe_too(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(Stopped, match=r"cannot write .*full: No space left"):
        write_json(full, {"x": 1})
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert full.is_symlink()
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_json(pipe, {"x": 1})
    reader.join(10)
    assert read == ['{\n  "x": 1\n}\n']
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "no/such/folder/x", "."])
def test_a_name_that_cannot_be_written_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught, atomic_file(tmp_path / name) as file:
        file.write(b"x")
    assert "\n" not in str(caught.value)
    if len(name) < 300:
        with pytest.raises(UserError):
            check_writable(tmp_path / name)
