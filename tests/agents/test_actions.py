"""Every action space and action masks, end to end: collecting, learning, resuming, evaluation, recall."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from action_envs import ACTION_SPACES, Acts
from checks import refusal

import train_rl
from agents.config import TrainConfig
from agents.evaluation import LoadedAgent, load_agent, play_episodes
from agents.trainer import Trainer
from envs import held_out_seed, make_single
from recall.record.tape import Tape
from recall.render.episode import record_episode
from recall.render.outputs import Outputs, render_recalls
from recall.scores.decision import decision_effect, policy_effect

SMALL: dict[str, Any] = {
    "hidden_size": 8, "embedding_size": 8, "memory_size": 4, "num_envs": 4, "rollout_steps": 8, "minibatches": 2,
    "log_every": 1, "backend": "sync", "device": "cpu", "total_steps": 64,
}  # fmt: skip


def trained(run_dir: Path, env: str, kwargs: dict[str, Any], **options: Any) -> Trainer:
    config = TrainConfig(**{**SMALL, **options}, env=env, env_kwargs=json.dumps(kwargs), run_dir=str(run_dir))
    trainer = Trainer(config)
    trainer.run()
    trainer.close()
    return trainer


def agent_of(trainer: Trainer) -> LoadedAgent:
    return LoadedAgent(trainer.model.eval(), trainer.config, trainer.collector.frames, "in memory")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ACTION_SPACES)
def test_every_action_space_is_collected_learnt_evaluated_and_recalled(kind: str, tmp_path: Path) -> None:
    trainer = trained(tmp_path / "run", "action_envs:Acts-v0", {"kind": kind}, core="mnm-p")
    rollout, actions = trainer.collector.rollout, trainer.model.actions
    assert torch.equal(rollout.previous_action[1:], rollout.action[:-1])
    sent = actions.to_env(rollout.action.flatten(0, 1))
    received = [make_single("action_envs:Acts-v0", {"kind": kind}).actions.decode(x) for x in sent]
    assert all(x in ACTION_SPACES[kind] for x in received)
    metrics = trainer.learner.update(rollout, 0.0)
    assert all(np.isfinite(value) for value in metrics.values())

    agent = load_agent(tmp_path / "run", "latest", torch.device("cpu"))
    for policy in ("greedy", "sample"):
        together = [r.episode_return for r in play_episodes(agent, 3, policy)]
        alone = [r.episode_return for r in play_episodes(agent, 3, policy, num_envs=1)]
        assert together == pytest.approx(alone, abs=1e-5)
    env = make_single("action_envs:Acts-v0", {"kind": kind})
    tape = record_episode(agent.model, env, held_out_seed(0, 0), core="mnm-p", scenes=False).tape
    tape.save(tmp_path / "tape.npz")
    again = Tape.load(tmp_path / "tape.npz")
    assert again.action.dtype == (np.int64 if kind == "shifted" else np.float32)
    np.testing.assert_array_equal(again.action, tape.action)
    torch.testing.assert_close(again.policy.mode().numpy(), tape.action, check_dtype=False)
    effect = decision_effect(agent.model, again)
    assert np.isfinite(effect.divergence).all()
    assert (effect.divergence >= 0).all()
    assert np.isfinite(effect.probability_change).all()
    moved = policy_effect(agent.model, again)
    assert ((moved >= 0) & (moved <= 1)).all()


@pytest.mark.parametrize("kind", ["shifted", "dict"])
def test_the_first_update_sees_the_policy_that_acted(kind: str, tmp_path: Path) -> None:
    trainer = trained(tmp_path / "run", "action_envs:Acts-v0", {"kind": kind}, core="lstm", epochs=1)
    metrics = trainer.learner.update(trainer.collector.collect(), 0.0)
    assert metrics["ratio_error_first"] < 1e-4


@pytest.mark.slow
def test_pages_and_animations_show_vectors(tmp_path: Path) -> None:
    trainer = trained(tmp_path / "run", "Pendulum-v1", {}, core="lstm")
    outputs = Outputs(gif=tmp_path / "a.gif", html=tmp_path / "a.html")
    episode = record_episode(trainer.model, make_single("Pendulum-v1"), 3, "sample", scenes=False)
    assert all(-2 <= float(label) <= 2 for label in episode.actions), (
        "the torque, as the environment takes it"
    )
    assert episode.tape.likelihood == "density", "a single real number has no probability"

    def short() -> Any:
        return make_single("Pendulum-v1", {"max_episode_steps": 3}, render_mode="rgb_array")

    pytest.importorskip("pygame")
    render_recalls(trainer.model, short, [3], outputs, core="lstm")
    assert (tmp_path / "a.gif").stat().st_size > 1000
    shown = record_episode(trainer.model, short(), 3, "greedy", scenes=False).actions
    page = (tmp_path / "a.html").read_text()
    assert all(label in page for label in shown)
    assert '"likelihood":"density"' in page.replace(" ", "")


@pytest.mark.slow
def test_box_actions_are_clipped_at_the_environment_only(tmp_path: Path) -> None:
    seen: list[Any] = []
    step = Acts.step

    def spy(self: Acts, action: Any) -> Any:
        seen.append(action)
        return step(self, action)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Acts, "step", spy)
        trainer = trained(
            tmp_path / "run", "action_envs:Acts-v0", {"kind": "box"}, core="lstm", total_steps=32
        )
    action = trainer.collector.rollout.action.flatten(0, 1)
    low, high = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1.0])
    assert torch.any(action < low)
    assert torch.any(action > high)
    received = torch.as_tensor(np.stack(seen))
    assert torch.all((received >= low) & (received <= high))
    torch.testing.assert_close(received[:32], action.clamp(low, high))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "vector"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("core", ["lstm", "mnm-p"])
def test_no_illegal_action_is_ever_taken(core: str, method: bool, vector: bool, tmp_path: Path) -> None:
    kwargs = {"method": method, "vector": vector}
    trainer = trained(tmp_path / "run", "action_envs:Minefield-v0", kwargs, core=core, total_steps=320)
    rollout = trainer.collector.rollout
    assert rollout.reward.min() >= 0.0
    metrics = trainer.learner.update(rollout, 0.5)
    assert all(np.isfinite(value) for value in metrics.values())
    agent = agent_of(trainer)
    for policy in ("greedy", "sample"):
        results = play_episodes(agent, 8, policy)
        assert all(result.length == 10 and result.episode_return >= 0 for result in results)
    env = make_single("action_envs:Minefield-v0", kwargs)
    tape = record_episode(agent.model, env, 3, "sample", core=core, scenes=False).tape
    assert (tape.probability > 0).all()
    if core == "mnm-p":
        assert np.isfinite(decision_effect(agent.model, tape).divergence).all()
        assert np.isfinite(policy_effect(agent.model, tape)).all()


def test_masks_are_what_keeps_it_alive(tmp_path: Path) -> None:
    """The same environment without its mask punishes: the test above can fail."""
    trainer = trained(tmp_path / "run", "action_envs:Minefield-v0", {}, core="lstm", total_steps=64)
    trainer.model.mask_key = None
    assert min(r.episode_return for r in play_episodes(agent_of(trainer), 20, "sample")) <= -100


@pytest.mark.parametrize(("wrong", "said"), [("none", "no action is legal"), ("short", "expected 3 entries")])
def test_a_wrong_mask_is_one_line(wrong: str, said: str, tmp_path: Path) -> None:
    options = ["--env", "action_envs:Minefield-v0", "--env-kwargs", json.dumps({"wrong": wrong})]
    small = [
        "--num-envs",
        "4",
        "--rollout-steps",
        "8",
        "--total-steps",
        "64",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    assert said in refusal(train_rl.main, *options, *small)
