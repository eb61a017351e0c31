"""The bAbI benchmarks: trained in pieces, collected as CSV, printed from the CSV alone."""

from __future__ import annotations

from pathlib import Path
from subprocess import DEVNULL, PIPE, TimeoutExpired
from types import SimpleNamespace

import pytest
from forked import Command

from agents.files import read_csv
from benchmarks.studies import babi_by_task, babi_joint
from envs.errors import UserError

SMALL = ["--tasks", "1,6", "--hidden-size", "8", "--memory-size", "8", "--embedding-size", "8", "--batch-size", "4",
         "--log-every", "2", "--checkpoint-every", "2"]  # fmt: skip


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(babi_joint, "RUNS", tmp_path)
    monkeypatch.setattr(babi_joint, "RESULTS", tmp_path / "joint.csv")
    monkeypatch.setattr(babi_joint, "CURVE", tmp_path / "curve.csv")
    monkeypatch.setattr(babi_joint, "FIGURE", tmp_path / "joint.png")
    monkeypatch.setattr(babi_joint, "WRITES", tmp_path / "writes.csv")
    monkeypatch.setattr(babi_joint, "WRITES_FIGURE", tmp_path / "writes.png")
    monkeypatch.setattr(babi_joint, "SETTINGS", SMALL)
    started = SimpleNamespace(
        Popen=lambda command, **_: Command(*command[1:]),
        TimeoutExpired=TimeoutExpired,
        DEVNULL=DEVNULL,
        PIPE=PIPE,
    )
    monkeypatch.setattr("benchmarks.common.subprocess", started)
    # The runs are processes of their own, which name the tree as it is while somebody works on it.
    monkeypatch.setattr(babi_joint, "is_committed", lambda path, commit: True)
    return tmp_path


@pytest.mark.slow
def test_a_joint_run_goes_on_beyond_its_first_steps(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert babi_joint.main(["--data", "generated", "--steps", "2"]) == 0
    first = read_csv(places / "joint.csv")
    assert [row["task"] for row in first] == ["1", "6"]
    assert all(0.0 <= float(row["test_error"]) <= 100.0 for row in first)
    assert babi_joint.main(["--data", "generated", "--steps", "4"]) == 0
    assert [row["updates"] for row in read_csv(places / "curve.csv")] == ["2", "4"]
    assert {row["updates"] for row in read_csv(places / "joint.csv")} == {"4"}
    assert (places / "joint.png").read_bytes().startswith(b"\x89PNG")
    # The maps of a model of generated stories stay with its run.
    assert {row["earlier_word"] for row in read_csv(places / "mnm-p-s0" / "writes.csv")} >= {
        "daniel",
        "garden",
    }
    assert not (places / "writes.csv").exists()
    capsys.readouterr()
    assert babi_joint.main(["--summary"]) == 0
    page = capsys.readouterr().out
    assert "| 6: yes/no questions |" in page
    assert "mnm-p, seed 0: 4 updates" in page


def test_a_run_that_went_on_has_no_test_error_until_it_ends(places: Path) -> None:
    run = places / "mnm-p-s0"
    run.mkdir()
    (run / "config.json").write_text('{"commit": "abc"}')
    (run / "result.json").write_text('{"updates": 2, "test_error_task1": 40.0}')
    head = "updates,wall_s,score,valid_mean_error,valid_failed,valid_error_task1\n"
    (run / "metrics.csv").write_text(head + "2,1,0.5,50,1,50\n")
    for name in ("writes.csv", "writes.png"):
        (run / name).write_text("first")
    babi_joint.collect(babi_joint.JointConfig(), run)
    assert read_csv(places / "joint.csv")[0]["test_error"] == "40.0"
    for name in ("writes.csv", "writes.png"):
        assert (places / name).read_text() == "first"
        (run / name).write_text("of a piece that has not ended")
    (run / "metrics.csv").write_text(head + "2,1,0.5,50,1,50\n4,2,0.4,60,1,60\n")
    babi_joint.collect(babi_joint.JointConfig(), run)
    row = read_csv(places / "joint.csv")[0]
    assert (row["test_error"], row["valid_error"], row["best_updates"]) == ("nan", "50.0", "2")
    assert (places / "writes.csv").read_text() == "first"


@pytest.mark.parametrize("benchmark", [babi_joint, babi_by_task])
def test_training_needs_the_files(benchmark: object) -> None:
    with pytest.raises(UserError, match="--data is needed"):
        benchmark.main([])  # type: ignore[attr-defined]


def test_tasks_of_the_table_are_numbers() -> None:
    with pytest.raises(UserError, match="numbers such as"):
        babi_by_task.main(["--data", "generated", "--tasks", "1,x"])
