"""Checkpoints and other files appear whole or not at all."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from forked import run

from agents.checkpoint import load_checkpoint, load_weights, save_checkpoint
from agents.config import TrainConfig
from agents.files import atomic_file
from agents.run_dir import config_from_dict, config_to_dict
from envs.errors import UserError


def test_round_trip_of_everything_a_checkpoint_may_hold(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "checkpoint.pt"
    content = {
        "model": {"w": torch.randn(3)},
        "numbers": [1, 2.5, None, True],
        "text": "x",
        "by_number": {0: "a"},
    }
    save_checkpoint(path, content)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["model"]["w"], content["model"]["w"])
    assert (loaded["numbers"], loaded["text"], loaded["by_number"]) == ([1, 2.5, None, True], "x", {0: "a"})
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_file(path) as file:
            file.write(b"half of the new")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_process_killed_while_writing_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "latest.pt"
    save_checkpoint(path, {"model": {"w": torch.ones(2)}})
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom agents.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as file:\n"
        "    file.write(b'x' * 1000)\n    file.flush()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = run("-c", script, str(path))
    assert done.returncode == -signal.SIGKILL
    assert torch.equal(load_checkpoint(path)["model"]["w"], torch.ones(2))


def test_weights_of_another_shape_or_name_are_refused_by_name(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 3)
    source = tmp_path / "x.pt"
    with pytest.raises(UserError, match=r"its weight has shape \[4, 2\], this agent needs \[3, 2\]"):
        load_weights(model, {"weight": torch.zeros(4, 2), "bias": torch.zeros(3)}, source)
    with pytest.raises(UserError, match="it has no bias"):
        load_weights(model, {"weight": torch.zeros(3, 2)}, source)
    with pytest.raises(UserError, match="its extra has no place"):
        load_weights(model, {**model.state_dict(), "extra": torch.zeros(1)}, source)


def test_an_option_that_no_longer_exists_is_dropped_from_stored_configurations_and_no_other_is() -> None:
    values = config_to_dict(TrainConfig(seed=3))
    assert config_from_dict(TrainConfig, {**values, "cuda_graphs": True}, "here") == TrainConfig(seed=3)
    with pytest.raises(UserError, match="here has the unknown option 'cuda_graf'"):
        config_from_dict(TrainConfig, {**values, "cuda_graf": True}, "here")
