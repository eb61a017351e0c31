"""Success by the place where a level begins: the places are those of the very levels that were played."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.files import read_csv
from benchmarks.studies import success_by_start
from envs.errors import UserError

AGENT = Path(__file__).resolve().parents[2] / "pretrained" / "memory-s13-lstm"


def test_every_level_is_counted_where_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(success_by_start, "RESULTS", tmp_path / "starts.csv")
    for _ in range(2):  # Measured again, its rows are replaced.
        assert success_by_start.main(["--agents", str(AGENT), "--episodes", "20"]) == 0
    rows = read_csv(tmp_path / "starts.csv")
    assert sum(int(row["levels"]) for row in rows) == 20
    assert len(rows) > 1
    # This agent walks to the fork of S13 and knows the cue: the further left it begins, the longer it walks.
    assert all(float(row["success"]) == 1.0 for row in rows)
    steps = [float(row["length"]) + int(row["column"]) for row in rows]
    assert max(steps) - min(steps) < 6.0 < max(steps)
    assert "begins in column" in success_by_start.table()


def test_an_agent_of_another_task_is_refused() -> None:
    with pytest.raises(UserError, match="GridMaze9-v0 have no column"):
        success_by_start.main(["--agents", str(AGENT.parent / "maze-lstm"), "--episodes", "2"])


def test_without_runs_it_says_how_to_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(success_by_start, "RUNS", tmp_path)
    with pytest.raises(UserError, match=r"train_studies memory-s7-view3"):
        success_by_start.main([])
