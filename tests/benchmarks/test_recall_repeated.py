"""The recall check on several blocks of episodes: one row per agent and block, replaced when measured again."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.files import read_csv
from benchmarks.common import ROOT
from benchmarks.studies import recall_repeated
from envs.errors import UserError

AGENTS = ["--agents", str(ROOT / "pretrained" / "three-arms-mnm-p"), "--episodes", "6"]


@pytest.mark.slow
def test_rows_are_replaced_and_say_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recall_repeated, "RESULTS", tmp_path / "blocks.csv")
    recall_repeated.main([*AGENTS, "--blocks", "0,1"])
    recall_repeated.main([*AGENTS, "--blocks", "1"])
    rows = read_csv(tmp_path / "blocks.csv")
    assert [(row["agent"], row["block"]) for row in rows] == [
        ("three-arms-mnm-p", "0"),
        ("three-arms-mnm-p", "1"),
    ]
    for row in rows:
        assert int(row["passed"]) + len([name for name in row["failed"].split("; ") if name]) == int(
            row["checks"]
        )
        assert (row["hit_R2"], row["flips_top"], row["return_top"]) == ("1.0", "1.0", "-1.0")
    recall_repeated.main(["--summary"])
    assert "| three-arms-mnm-p | 1 |" in capsys.readouterr().out


def test_wrong_blocks_and_no_agents_are_refused() -> None:
    with pytest.raises(UserError, match="--blocks takes whole numbers"):
        recall_repeated.main([*AGENTS, "--blocks", "0,x"])
    with pytest.raises(UserError, match="--agents is needed"):
        recall_repeated.main([])
