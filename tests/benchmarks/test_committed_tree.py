"""What is recorded names a commit: nothing is recorded from a tree that no commit describes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agents import run_dir
from agents.files import read_csv
from benchmarks import common
from benchmarks.speed import (
    end_to_end,
    env_backends,
    memory_speed,
    multi_process,
    recall_cost,
    recurrent_speed,
    training_phases,
)
from benchmarks.studies import (
    babi_by_task,
    babi_joint,
    ceilings,
    hard_memory,
    maze_ceiling,
    memory_deletion,
    recall_repeated,
    recall_validity,
    success_by_start,
    symbol_tasks,
    train_studies,
)
from benchmarks.studies.studies import STUDIES
from benchmarks.tools import publish
from envs.errors import UserError

AGENT = str(common.ROOT / "pretrained" / "memory-s13-lstm")
COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], list[str]]] = {
    "train_studies": (train_studies.main, ["maze-9-ppo"]),
    "babi_by_task": (babi_by_task.main, ["--data", "generated"]),
    "babi_joint": (babi_joint.main, ["--data", "generated"]),
    "ceilings": (ceilings.main, []),
    "hard_memory": (hard_memory.main, []),
    "maze_ceiling": (maze_ceiling.main, []),
    "memory_deletion": (memory_deletion.main, []),
    "recall_repeated": (recall_repeated.main, ["--agents", AGENT]),
    "recall_validity": (recall_validity.main, []),
    "success_by_start": (success_by_start.main, ["--agents", AGENT]),
    "symbol_tasks": (symbol_tasks.main, []),
    "publish": (publish.main, [AGENT, "--name", "x"]),
    "end_to_end": (end_to_end.main, []),
    "env_backends": (env_backends.main, []),
    "memory_speed": (memory_speed.main, []),
    "memory_speed, open loop": (memory_speed.main, ["--open-loop"]),
    "multi_process": (multi_process.main, []),
    "recall_cost": (recall_cost.main, []),
    "recurrent_speed": (recurrent_speed.main, []),
    "training_phases": (training_phases.main, []),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("commit", "message"),
    [("0123abc-dirty", "tracked files differ from 0123abc"), ("unknown", "no git checkout")],
)
def test_every_command_that_records_refuses(
    name: str, commit: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "source_commit", lambda: commit)
    main, options = COMMANDS[name]
    with pytest.raises(UserError, match=message) as refused:
        main(options)
    assert "\n" not in str(refused.value)


def test_a_run_from_an_uncommitted_tree_is_not_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_studies, "RUNS", tmp_path)
    monkeypatch.setattr(train_studies, "RESULTS", tmp_path / "found")
    study = STUDIES["t-maze-6"]
    for seed, commit in enumerate(("abc", "abd-dirty")):
        run = train_studies.Run(study, "lstm", seed)
        run.path.mkdir()
        (run.path / "config.json").write_text(f'{{"commit": "{commit}"}}')
        (run.path / "metrics.csv").write_text(
            "updates,frames,wall_s,success_rate,return_mean\n1,1000,1,0.5,0\n2,2000,2,0.6,0\n"
        )
    train_studies.collect(study, 2)
    assert [row["commit"] for row in read_csv(study.rows_in(tmp_path / "found"))] == ["abc"]
    assert {row["seed"] for row in read_csv(study.curves_in(tmp_path / "found"))} == {"0"}
    assert (
        capsys.readouterr().out.count("is left out: it was trained from an uncommitted tree (abd-dirty)") == 1
    )


def test_recorded_results_do_not_make_the_tree_uncommitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the second run of a study would never be recorded: the first one changed its CSV file."""
    code, found = tmp_path / "agents" / "run_dir.py", tmp_path / "benchmarks" / "results" / "x.csv"
    for file in (code, found):
        file.parent.mkdir(parents=True)
        file.write_text("1\n")

    def git(*command: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "x")
    monkeypatch.setattr(run_dir, "ROOT", tmp_path)
    commit = run_dir.source_commit()
    assert len(commit) >= 7
    assert not commit.endswith("-dirty")
    found.write_text("2\n")
    assert run_dir.source_commit() == commit
    code.write_text("2\n")
    assert run_dir.source_commit() == f"{commit}-dirty"
