"""The commands as a user meets them: what they print, what they refuse, and how they stop."""

from __future__ import annotations

import dataclasses
import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from checks import refusal
from forked import Command
from interrupted import interrupt

import evaluate
import train_rl
from agents.config import PRESETS, TrainConfig, preset
from agents.evaluation import load_agent, play_episodes
from agents.metrics import read_metrics
from agents.options import run_command
from envs.errors import UserError

TINY = ["--env", "mnm/GridMaze9-v0", "--core", "lstm", "--num-envs", "4", "--rollout-steps", "25",
        "--hidden-size", "16", "--embedding-size", "16", "--minibatches", "2", "--threads", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    assert train_rl.main([*TINY, "--total-steps", "1000", "--log-every", "2", "--run-dir", str(path)]) == 0
    return path


@pytest.mark.slow
def test_a_run_directory_holds_everything(run_dir: Path) -> None:
    names = {path.name for path in run_dir.iterdir()}
    assert {"config.json", "metrics.csv", "checkpoints", "curves.png"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [path for path in run_dir.rglob("*") if path.name.endswith(".part")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--env", "mnm/GridMaze-v1"], "mnm/GridMaze"),
        (["--env", "nonsense.module:Env-v0"], "nonsense.module"),
        (["--core", "mnmp"], "unknown core 'mnmp' (did you mean mnm-p"),
        (["--algo", "pppo"], "did you mean ppo"),
        (["--backend", "evnpool"], "did you mean envpool"),
        (["--read-memory", "no"], "'no' belongs to no option; switches (--name / --no-name) take no value"),
        (["--profile", ""], "'' belongs to no option"),
        (["--seed=--"], "--seed needs a value, got '--'"),
        (["--lerning-rate", "1"], "unknown option --lerning-rate (did you mean --learning-rate"),
        (["--total-steps", "many"], "'many' is not a whole number"),
        (["--total-steps", "inf"], "'inf' is not a whole number"),
        (["--preset", "mase"], "unknown preset 'mase' (did you mean maze"),
        (["--env-kwargs", "{side: 9}"], "not JSON"),
        (["--env-kwargs", "[1]"], "must be a JSON object"),
        (["--env-kwargs", '{"sides": 9}'], "side"),
        (["--gamma", "1.5"], "--gamma must lie in [0, 1], got 1.5"),
        (["--num-envs", "2", "--minibatches", "4"], "never over time"),
        (["--num-envs", "0"], "--num-envs must be at least 1"),
        (["--core", "hard", "--slots", "0"], "--slots must be at least 1"),
        (["--address-temperature", "0"], "--address-temperature must be positive and finite, got 0.0"),
        (["--address-temperature-final", "inf"], "--address-temperature-final must be positive and finite"),
        (["--learning-rate", "nan"], "--learning-rate must be a finite number, got nan"),
        (["--max-grad-norm", "inf"], "--max-grad-norm must be a finite number, got inf"),
        (["--entropy-coef", "nan"], "--entropy-coef must be a finite number, got nan"),
        (["--reward-scale=-inf"], "--reward-scale must be a finite number, got -inf"),
        (["--reward-scale", "1e300"], "--reward-scale must be at most 1e+06, got 1e+300"),
        (["--learning-rate", "1e9"], "--learning-rate must be at most 10, got 1e+09"),
        (["--hidden-size", "1_000_000_000"], "--hidden-size must be at most 65,536, got 1,000,000,000"),
        (["--seed", str(2**63)], "--seed must be at most 2,147,483,647, got 9.22337e+18"),
        (["--threads=-1"], "--threads must be at least 0, got -1"),
        (["--resume"], "--resume needs --run-dir"),
    ],
)
def test_bad_input_is_refused_in_one_line(argv: list[str], expected: str, tmp_path: Path) -> None:
    target = [] if "--resume" in argv else ["--run-dir", str(tmp_path / "run")]
    assert expected in refusal(train_rl.main, *argv, *target)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_an_environment_with_tuple_observations_is_trained_and_evaluated(tmp_path: Path) -> None:
    run = tmp_path / "blackjack"
    argv = [
        "--env",
        "Blackjack-v1",
        "--num-envs",
        "4",
        "--rollout-steps",
        "8",
        "--total-steps",
        "64",
        "--core",
        "lstm",
    ]
    assert train_rl.main([*argv, "--run-dir", str(run)]) == 0
    assert evaluate.main([str(run), "--episodes", "2", "--gif", str(tmp_path / "x.gif")]) == 0


def test_cuda_asked_for_and_absent(tmp_path: Path) -> None:
    assert "finds no CUDA device" in refusal(
        train_rl.main, "--device", "cuda", "--run-dir", str(tmp_path / "run")
    )


@pytest.mark.parametrize(
    ("core", "words", "line"),
    [
        ("lstm", "--memory-hidden 8 --heads=4 --hidden-size 9", "--memory-hidden, --heads: no effect on the core lstm"),
        ("hard", "--no-read-feedback --slots 8", "--no-read-feedback: no effect on the core hard"),
        ("mnm-p", "--slots 8 --heads 2 --meta-coef 0", "--slots: no effect on the core mnm-p"),
        ("gru", "--meta-coef 0", "--meta-coef: no effect on the core gru"),
        ("mnm-g", "--heads 2 --no-anneal --gamma 0.5", ""),
        ("my:Core", "--hidden-size 8", "--hidden-size: no effect on the core my:Core"),
    ],
)  # fmt: skip
def test_options_of_other_cores_are_named(core: str, words: str, line: str) -> None:
    assert TrainConfig(core=core).no_effect(words.split()) == line


def test_a_run_directory_is_never_overwritten(run_dir: Path) -> None:
    assert "exists; continue it with --resume" in refusal(train_rl.main, *TINY, "--run-dir", str(run_dir))


def test_resume_keeps_the_architecture(run_dir: Path) -> None:
    resume = ["--run-dir", str(run_dir), "--resume"]
    message = refusal(train_rl.main, *resume, "--hidden-size", "32")
    assert "cannot change the architecture option --hidden-size from 16 to 32" in message
    assert "cannot change the architecture option --core" in refusal(train_rl.main, *resume, "--core", "gru")
    assert "cannot change the option --rollout-steps" in refusal(
        train_rl.main, *resume, "--rollout-steps", "8"
    )


@pytest.mark.slow
def test_resume_trains_on_where_more_steps_are_asked_for(run_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert train_rl.main([*TINY, "--total-steps", "200", "--run-dir", str(path)]) == 0
    assert train_rl.main(["--run-dir", str(path), "--resume", "--total-steps", "400"]) == 0
    assert json.loads((path / "config.json").read_text())["config"]["total_steps"] == 400


@pytest.mark.parametrize("name", ["missing", "truncated", "garbage", "foreign"])
def test_a_checkpoint_that_cannot_be_used(name: str, run_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    whole = (run_dir / "checkpoints" / "latest.pt").read_bytes()
    if name == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif name == "garbage":
        path.write_bytes(b"not a checkpoint")
    elif name == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    message = refusal(evaluate.main, str(run_dir), "--checkpoint", str(path))
    assert {"missing": "no checkpoint at", "foreign": "holds no model"}.get(
        name, "truncated or not"
    ) in message


def test_a_checkpoint_never_unpickles_objects(run_dir: Path, tmp_path: Path) -> None:
    """A pickle that would run code is refused, and the code does not run."""
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {trace}",)

    torch.save({"model": Evil()}, path)
    assert "not a checkpoint" in refusal(evaluate.main, str(run_dir), "--checkpoint", str(path))
    assert not trace.exists()


def test_a_checkpoint_of_another_architecture(run_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    wider = [word if word != "16" else "24" for word in TINY]
    train_rl.main([*wider, "--total-steps", "100", "--run-dir", str(other)])
    message = refusal(evaluate.main, str(run_dir), "--checkpoint", str(other / "checkpoints" / "latest.pt"))
    assert "of another architecture: its --hidden-size is 24" in message


def test_evaluate_refuses_in_one_line(run_dir: Path, tmp_path: Path) -> None:
    assert "not a run directory" in refusal(evaluate.main, str(tmp_path))
    assert f"did you mean {run_dir}" in refusal(evaluate.main, f"{run_dir}x")
    assert "--episodes must be at least 1" in refusal(evaluate.main, str(run_dir), "--episodes", "0")
    assert "writes no --gif" in refusal(evaluate.main, str(run_dir), "--check-recall", "--gif", "x.gif")
    assert "plays greedily" in refusal(evaluate.main, str(run_dir), "--check-recall", "--policy", "sample")
    assert "--control is for --check-recall" in refusal(evaluate.main, str(run_dir), "--control", "x")
    assert "--top-k must be at least 1" in refusal(evaluate.main, str(run_dir), "--top-k", "0")
    for steps, said in (("5", 'such as "100:160"'), ("-1:4", "must be steps"), ("6:6", "names no step")):
        assert said in refusal(evaluate.main, str(run_dir), f"--gif-steps={steps}")
    assert "does not exist" in refusal(evaluate.main, str(run_dir), "--json", str(tmp_path / "no" / "x.json"))
    assert "use latest" in refusal(evaluate.main, str(run_dir), "--checkpoint", "best")


def test_evaluation_json_says_everything(run_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert evaluate.main([str(run_dir), "--episodes", "5", "--policy", "sample", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    low, high = result["return_interval_95"]
    assert low <= result["return_mean"] <= high
    assert result["env"] == "mnm/GridMaze9-v0"
    assert (result["core"], result["algo"], result["policy"], result["episodes"]) == (
        "lstm",
        "ppo",
        "sample",
        5,
    )
    assert result["frames"] == 1000
    assert result["success_rate"] is None  # the maze defines no success
    assert result["length_mean"] == 200.0
    assert "held-out" in result["seeds"]
    assert result["checkpoint"].endswith("latest.pt")
    assert result["versions"]["torch"] == version("torch")


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["greedy", "sample"])
def test_any_number_of_environments_plays_the_same_episodes(run_dir: Path, policy: str) -> None:
    agent = load_agent(run_dir, "latest", torch.device("cpu"))
    agent.model.double()
    one = play_episodes(agent, 7, policy, num_envs=1)
    eight = play_episodes(agent, 7, policy, num_envs=3)
    assert one == eight or str(one) == str(eight)  # NaN success is not equal to itself


def test_help_shows_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train_rl.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    fields = dataclasses.fields(TrainConfig)
    assert all(f"--{field.name.replace('_', '-')}" in text for field in fields)
    assert text.count("(default:") == len(fields) + len(dataclasses.fields(train_rl.Command))
    headings = ["options:", "memory core:", "neural memory (", "hard memory (", "advanced ("]
    places = [text.index(f"\n{heading}") for heading in headings]
    assert places == sorted(places)
    assert places[-2] < text.index("  --slots") < places[-1] < text.index("  --written-layers")
    assert all(name in text for name in PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_configurations(name: str) -> None:
    assert isinstance(preset(name), TrainConfig)


@pytest.mark.slow
def test_training_ends_once_success_is_enough_and_says_that_it_is_done(tmp_path: Path) -> None:
    """Without memory at most half of the T-maze's episodes succeed: a tenth is soon enough, nine tenths never."""
    options = ["--env", "mnm/TMaze-v0", "--core", "none", "--total-steps", "10_000", "--log-every", "1"]
    frames = {}
    for wanted in ("0.1", "0.9"):
        path = tmp_path / wanted
        assert train_rl.main([*options, "--enough-success", wanted, "--run-dir", str(path)]) == 0
        rows = read_metrics(path / "metrics.csv")
        frames[wanted] = rows[-1]["frames"]
    assert frames["0.1"] < 10_000 <= frames["0.9"]
    with pytest.raises(UserError, match=r"--enough-success must lie in \(0, 1\], got 98"):
        train_rl.read_command(["--enough-success", "98"])


def test_options_win_over_the_preset() -> None:
    config, _ = train_rl.read_command(["--preset", "maze", "--core", "gru", "--gamma=0.9"])
    assert (config.core, config.gamma, config.reward_scale) == ("gru", 0.9, PRESETS["maze"]["reward_scale"])


def test_a_user_error_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(argv: object) -> int:
        raise UserError("this is what was wrong")

    with pytest.raises(SystemExit) as caught:
        run_command(fail)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: this is what was wrong\n"


@pytest.mark.slow
def test_a_reader_who_leaves_ends_a_command_without_a_traceback() -> None:
    talk = """
from agents.options import run_command
run_command(lambda argv: print("word " * 100_000) or 0)
"""
    process = Command("-c", talk, read=False)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 141


def test_any_other_broken_pipe_is_an_error_as_before() -> None:
    def worker_died(argv: object) -> int:
        raise BrokenPipeError("to a worker")

    with pytest.raises(BrokenPipeError, match="to a worker"):
        run_command(worker_died)


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_exit_code_130(tmp_path: Path) -> None:
    path = tmp_path / "run"
    interrupt("train_rl.py", [*TINY, "--total-steps", "100000000", "--log-every", "1"], path)
    assert train_rl.read_command(["--run-dir", str(path), "--resume"])[1].resume
    assert load_agent(path, "latest", torch.device("cpu")).frames > 0
