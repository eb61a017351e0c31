"""Nothing that is not finite reaches an optimizer step, a checkpoint, `best` or a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import refusal, same
from test_resume import SMALL

import evaluate
import train_rl
from agents.checkpoint import load_checkpoint, save_checkpoint
from agents.config import TrainConfig
from agents.files import write_json
from agents.trainer import Trainer
from envs.errors import Diverged, Stopped
from tasks.config import TaskConfig
from tasks.trainer import TaskTrainer
from train_task import read_command as read_task

# Raw rewards: normalized ones are clipped, and an infinite one would never reach the loss.
MAZE: dict[str, Any] = {**SMALL, "env": "mnm/GridMaze9-v0", "core": "lstm", "normalize_rewards": False}
ARGV = ["--env", "mnm/GridMaze9-v0", "--core", "lstm", "--num-envs", "4", "--rollout-steps", "9", "--minibatches", "2",
        "--hidden-size", "16", "--embedding-size", "16", "--total-steps", "360", "--log-every", "1"]  # fmt: skip


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_an_update_that_is_not_finite_changes_no_weight_and_stops(
    algo: str, bad: str, tmp_path: Path
) -> None:
    trainer = Trainer(TrainConfig(**MAZE, algo=algo, run_dir=str(tmp_path / "run")))
    trainer.advance()
    rollout = trainer.collector.collect()
    rollout.reward[3, :] = float(bad)
    before = {name: x.clone() for name, x in trainer.model.state_dict().items()}
    moments = [x.clone() for state in trainer.learner.optimizer.state.values() for x in state.values()]
    with pytest.raises(Diverged, match=r"the policy loss is not finite in this update"):
        trainer.learner.update(rollout, 0.0)
    assert same(before, trainer.model.state_dict())
    assert same(moments, [x for state in trainer.learner.optimizer.state.values() for x in state.values()])
    trainer.close()


def test_weights_that_overflow_in_the_last_step_of_an_update_are_noticed(tmp_path: Path) -> None:
    trainer = Trainer(TrainConfig(**MAZE, run_dir=str(tmp_path / "run")))
    rollout = trainer.collector.collect()
    bias, infinite = trainer.model.value_head.bias, torch.tensor([float("inf")])
    trainer.learner.epochs = trainer.learner.minibatches = 1
    trainer.learner.optimizer.step = lambda: bias.data.copy_(infinite)  # type: ignore
    with pytest.raises(Diverged, match="a weight is not finite"):
        trainer.learner.update(rollout, 0.0)
    with pytest.raises(Diverged, match="the weights are not finite"):
        trainer.save()
    assert torch.isfinite(
        load_checkpoint(trainer.directory.checkpoint("latest"))["model"]["value_head.bias"]
    ).all()
    trainer.close()


def test_a_run_that_diverges_keeps_its_checkpoint_logs_no_row_and_says_what_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, played = tmp_path / "run", Trainer.advance

    def diverge(self: Trainer) -> dict[str, float]:
        if self.updates == 3:
            with torch.no_grad():
                self.model.policy_head.weight.fill_(float("nan"))
        return played(self)

    monkeypatch.setattr(Trainer, "advance", diverge)
    with pytest.raises(Stopped) as caught:
        train_rl.main([*ARGV, "--checkpoint-every", "2", "--run-dir", str(run)])
    line = str(caught.value)
    assert caught.value.code == 1
    assert "\n" not in line
    assert line.startswith("update 4: ")
    assert f"--run-dir {run} --resume --learning-rate 0.0005" in line
    assert load_checkpoint(run / "checkpoints" / "latest.pt")["updates"] == 2
    assert not (run / "checkpoints" / "best.pt").exists()
    assert len((run / "metrics.csv").read_text().splitlines()) == 1 + 3


def test_a_task_stops_before_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = TaskTrainer(read_task(["dictionary", "--core", "lstm", "--run-dir", str(tmp_path / "run")])[0])
    before = {name: x.clone() for name, x in trainer.model.state_dict().items()}
    loss = trainer.task.loss
    monkeypatch.setattr(trainer.task, "loss", lambda *a: (loss(*a)[0] * float("nan"), {}))
    with pytest.raises(Diverged, match=r"update 1 \(loss nan\)"):
        trainer.advance()
    assert same(before, trainer.model.state_dict())
    assert isinstance(trainer.config, TaskConfig)


@pytest.mark.slow
def test_weights_that_are_not_finite_are_neither_written_nor_evaluated(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train_rl.main([*ARGV, "--run-dir", str(run)]) == 0
    path = run / "checkpoints" / "latest.pt"
    content = load_checkpoint(path)
    content["model"]["policy_head.bias"][0] = float("nan")
    with pytest.raises(Diverged, match=r"the weights are not finite \(policy_head.bias\)"):
        save_checkpoint(path, content)
    torch.save({**content, "format": 1}, path)
    assert "the weights are not finite" in refusal(evaluate.main, str(run), "--episodes", "1")


def test_json_says_null_and_where(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"return": float("inf"), "all": [1.0, float("nan")], "fine": 2})
    content = json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content == {
        "return": None, "all": [1.0, None], "fine": 2, "not_finite": "null stands for: return was inf, all[1] was nan",
    }  # fmt: skip
