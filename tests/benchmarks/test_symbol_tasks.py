"""The table of symbol tasks: ablations are cores that lack a part, and what is known of other runs stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.files import read_csv, renew_csv, write_csv
from benchmarks.studies import symbol_tasks
from envs.errors import UserError


def test_rows_take_the_place_of_those_with_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "known.csv"
    write_csv(path, [{"core": "gru", "seed": 0, "x": 1}, {"core": "lstm", "seed": 1, "x": 2}])
    new = [{"core": "lstm", "seed": 1, "x": 3}, {"core": "lstm", "seed": 0, "x": 4}]
    renew_csv(path, new, ["core", "seed"])
    assert [row["x"] for row in read_csv(path)] == ["1", "3", "4"]
    renew_csv(path, [{"core": "none", "seed": 0, "x": 5}], ["core", "seed"], order=lambda row: -int(row["x"]))
    assert [row["x"] for row in read_csv(path)] == ["5", "4", "3", "1"]


def test_an_ablation_is_its_core_without_a_part() -> None:
    command = symbol_tasks.Run("copy", "mnm-p writes-off", 1).command(10)
    assert command[2:7] == ["copy", "--core", "mnm-p", "--written-layers", "none"]
    with pytest.raises(UserError, match=r"unknown core 'mnm-p writesoff' \(did you mean mnm-p writes-off"):
        symbol_tasks.SymbolTasksConfig(cores="lstm,mnm-p writesoff")


def test_some_cores_alone_leave_the_rows_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TABLE", "ACCURACY", "CURVES"):
        monkeypatch.setattr(symbol_tasks, name, tmp_path / f"{name}.csv")
    monkeypatch.setattr(symbol_tasks, "RUNS", tmp_path)
    write_csv(tmp_path / "TABLE.csv", [{"task": "copy", "core": "mnm-p last-layer", "seed": 0, "updates": 7}])
    run = symbol_tasks.Run("copy", "lstm", 0)
    run.path.mkdir()
    (run.path / "metrics.csv").write_text("updates,score\n3,0.5\n")
    result = {
        "updates": 3, "cpu_s": 1.0, "parameters": 9, "test_accuracy": 0.5, "test_accuracy_beyond": 0.25,
        "commit": "abc", "accuracy": [{"items": 1, "item_length": 1, "symbol_accuracy": 0.5, "trained": 1}],
    }  # fmt: skip
    (run.path / "result.json").write_text(json.dumps(result))
    for _ in range(2):
        symbol_tasks.collect([run])
    rows = [(row["core"], row["updates"]) for row in read_csv(tmp_path / "TABLE.csv")]
    assert rows == [("lstm", "3"), ("mnm-p last-layer", "7")]
    assert len(read_csv(tmp_path / "CURVES.csv")) == 1
