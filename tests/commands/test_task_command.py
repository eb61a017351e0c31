"""The supervised command as a user meets it: what it writes, refuses, and how it stops and continues."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from checks import refusal, same
from forked import run
from interrupted import interrupt

import train_task
from agents.checkpoint import load_checkpoint
from agents.metrics import read_metrics
from tasks import TASKS
from tasks.trainer import TaskTrainer

TINY = ["dictionary", "--core", "mnm-p", "--symbols", "5", "--hidden-size", "12", "--memory-size", "8",
        "--embedding-size", "8", "--batch-size", "8", "--valid-examples", "20", "--test-examples", "30",
        "--log-every", "4", "--checkpoint-every", "5", "--device", "cpu"]  # fmt: skip
FIRST, ALL = 7, 14


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    assert train_task.main([*TINY, "--steps", str(ALL), "--run-dir", str(path)]) == 0
    return path


@pytest.mark.slow
def test_a_run_directory_holds_everything(run_dir: Path) -> None:
    names = {path.name for path in run_dir.iterdir()}
    expected = {"config.json", "metrics.csv", "checkpoints", "curves.png", "result.json"}
    assert expected | {"accuracy.csv", "accuracy.png"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert [row["updates"] for row in read_metrics(run_dir / "metrics.csv")] == [4, 8, 12, 14]
    assert {path.stem for path in (run_dir / "checkpoints").iterdir()} == {"latest", "previous-1", "best"}
    result = json.loads((run_dir / "result.json").read_text())
    assert (result["task"], result["updates"], result["config"]["symbols"]) == ("dictionary", ALL, 5)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["dictionnary"], "unknown task 'dictionnary' (did you mean dictionary?); valid: "),
        ([], "the first word must be the task, one of: "),
        (["--core", "lstm"], "the first word must be the task"),
        (["dictionary", "--core", "mnmp"], "unknown core 'mnmp' (did you mean mnm-p"),
        (["dictionary", "--step", "1"], "unknown option --step (did you mean --steps"),
        (["dictionary", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["dictionary", "--learning-rate", "0"], "must be positive"),
        (["dictionary", "--min-items", "5"], "--min-items 5 is larger than --max-items 4"),
        (["associative-recall", "--min-items", "1"], "--min-items must be at least 2"),
        (["dictionary", "--json", "no/such/place.json"], "does not exist"),
        (["--resume"], "--resume needs --run-dir"),
    ],
)
def test_bad_input_is_refused_in_one_line(argv: list[str], expected: str, tmp_path: Path) -> None:
    target = [] if "--resume" in argv else ["--run-dir", str(tmp_path / "run")]
    assert expected in refusal(train_task.main, *argv, *target)
    assert not (tmp_path / "run").exists()


def test_a_run_directory_is_never_overwritten(run_dir: Path, tmp_path: Path) -> None:
    assert "exists; continue it with --resume" in refusal(train_task.main, *TINY, "--run-dir", str(run_dir))
    resume = ["--run-dir", str(run_dir), "--resume"]
    assert "cannot change the option --heads from 1 to 2" in refusal(train_task.main, *resume, "--heads", "2")
    assert "cannot change the option --task" in refusal(train_task.main, "copy", *resume)
    assert "not a run directory" in refusal(train_task.main, "--run-dir", str(tmp_path), "--resume")


@pytest.mark.parametrize("name", TASKS)
def test_help_of_a_task_shows_its_options_and_every_task(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        train_task.main([name, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(TASKS[name].defaults):
        assert field.name == "task" or f"--{field.name.replace('_', '-')}" in text
    assert all(other in text for other in TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_the_defaults_of_a_task_carry_its_name(name: str) -> None:
    assert TASKS[name].defaults.task == name


@pytest.mark.slow
def test_resume_in_a_new_process_equals_no_interruption_bit_for_bit(run_dir: Path, tmp_path: Path) -> None:
    """Weights, optimiser, random stream, counters, and the means of a row that the stop cut in two."""
    path = tmp_path / "parts"
    config, _ = train_task.read_command([*TINY, "--steps", str(ALL), "--run-dir", str(path)])
    assert not TaskTrainer(config).run(stop_after_updates=FIRST)
    done = run("train_task.py", "--run-dir", str(path), "--resume")
    assert done.returncode == 0, done.stderr
    whole, parts = (load_checkpoint(p / "checkpoints" / "latest.pt") for p in (run_dir, path))
    keys = ("model", "optimizer", "generator", "updates", "best_score", "sums", "summed")
    assert same([whole[key] for key in keys], [parts[key] for key in keys])
    rows = [read_metrics(p / "metrics.csv") for p in (run_dir, path)]
    for first, second in zip(*rows, strict=True):
        clocks = ("wall_s", "updates_per_s")
        assert {k: v for k, v in first.items() if k not in clocks} == {
            k: v for k, v in second.items() if k not in clocks
        }
    assert (run_dir / "accuracy.csv").read_text() == (path / "accuracy.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("core", ["hard", "lstm"])
def test_resume_replays_no_noise_twice(core: str, tmp_path: Path) -> None:
    """The noise of a core that chooses at random comes from the stream that is saved."""
    latest = []
    for name, stop_after in (("whole", None), ("parts", FIRST)):
        words = [
            *TINY,
            "--core",
            core,
            "--slots",
            "9",
            "--steps",
            str(ALL),
            "--run-dir",
            str(tmp_path / name),
        ]
        config, _ = train_task.read_command(words)
        finished = TaskTrainer(config).run(stop_after_updates=stop_after)
        assert finished or TaskTrainer(config, resume=True).run()
        latest.append(load_checkpoint(tmp_path / name / "checkpoints" / "latest.pt"))
    assert same(latest[0]["model"], latest[1]["model"])


@pytest.mark.slow
def test_another_seed_gives_another_run(run_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert train_task.main([*TINY, "--steps", "1", "--seed", "1", "--run-dir", str(path)]) == 0
    first, second = (
        load_checkpoint(p / "checkpoints" / "best.pt")["model"]["embedding.weight"] for p in (run_dir, path)
    )
    assert not torch.equal(first, second)


@pytest.mark.slow
def test_a_run_ends_at_the_score_wanted(tmp_path: Path) -> None:
    """And has its result; a higher score continues it."""
    path = tmp_path / "run"
    assert train_task.main([*TINY, "--steps", "8", "--stop-at", "0.0", "--run-dir", str(path)]) == 0
    assert json.loads((path / "result.json").read_text())["updates"] == 4
    assert train_task.main(["--run-dir", str(path), "--resume", "--stop-at", "1.1"]) == 0
    assert json.loads((path / "result.json").read_text())["updates"] == 8


@pytest.mark.slow
def test_a_run_can_be_resumed_from_its_first_moment(tmp_path: Path) -> None:
    """Killed before the first regular checkpoint, it begins again instead of being refused."""
    command = [*TINY, "--steps", "4", "--run-dir", str(tmp_path / "run")]
    TaskTrainer(train_task.read_command(command)[0])
    assert train_task.main(["--run-dir", str(tmp_path / "run"), "--resume"]) == 0
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt")["updates"] == 4


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_exit_code_130(tmp_path: Path) -> None:
    path = tmp_path / "run"
    interrupt("train_task.py", [*TINY, "--steps", "100000000"], path)
    saved = load_checkpoint(path / "checkpoints" / "latest.pt")
    assert saved["updates"] >= 4
    assert train_task.main(["--run-dir", str(path), "--resume", "--steps", str(saved["updates"] + 1)]) == 0
