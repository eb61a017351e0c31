"""The digests notice the last bit of a weight, and the comparison names what differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checks import refusal

from agents.checkpoint import save_checkpoint
from benchmarks.tools import digest


def test_a_digest_notices_one_bit(tmp_path: Path) -> None:
    found = []
    for value in (1.0, float(np.nextafter(np.float32(1), np.float32(2)))):
        save_checkpoint(tmp_path / "checkpoints/latest.pt", {"model": {"w": torch.tensor([value])}})
        np.savez(tmp_path / "tape.npz", action=np.array([1, 2]), value=np.array([value]))
        (tmp_path / "eval.json").write_text(f'{{"returns": [{value}], "versions": {{}}}}')
        found.append(
            (
                digest.weights(tmp_path),
                digest.tape(tmp_path / "tape.npz"),
                digest.returns(tmp_path / "eval.json"),
            )
        )
    assert all(one != other for one, other in zip(*found, strict=True))
    assert all(len(x) == 16 for pair in found for x in pair)


def test_the_comparison_names_what_differs() -> None:
    before = ["maze-lstm-ppo weights a returns b", "new-agent returns c", ""]
    assert digest.differences(["maze-lstm-ppo weights a returns b", "minigrid-lstm weights d"], before) == []
    assert digest.differences(["maze-lstm-ppo weights a returns x"], before) == ["maze-lstm-ppo: returns"]


def test_the_command_prints_and_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "of_core", lambda core, folder: iter([f"maze-{core} weights 1"]))
    old = tmp_path / "old.txt"
    old.write_text("maze-lstm weights 1\n")
    argv = ["--cores", "lstm", "--agents", "", "--against", str(old)]
    assert digest.main(argv) == 0
    old.write_text("maze-lstm weights 2\n")
    assert digest.main(argv) == 1
    assert "did you mean lstm" in refusal(digest.main, "--cores", "lstmm")
