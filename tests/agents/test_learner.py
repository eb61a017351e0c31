"""The learner: ratio 1 before the first step, masks that hold, and a value that knows about time limits."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scripted_env import scripted

from agents.config import TrainConfig
from agents.distributed import make_generator
from agents.learner import Learner
from agents.model import ActorCritic
from agents.rollout import Collector, Rollout
from agents.trainer import build_model
from envs import VecEnv, make_vec
from envs.vector import GymnasiumVecEnv
from memory import CORE_NAMES, gumbel_noise


def build(env: VecEnv, double: bool = False, **options: Any) -> tuple[Collector, Learner]:
    options = {
        "rollout_steps": 12,
        "minibatches": 2,
        "hidden_size": 16,
        "memory_size": 8,
        "heads": 2,
    } | options
    config = TrainConfig(num_envs=env.num_envs, embedding_size=16, **options)
    model = build_model(config, env.observation_space, env.action_space)
    # A policy with preferences, so that ratios can differ from 1 at all.
    torch.nn.init.normal_(model.policy_head.weight)
    if double:
        model.double()
    collector = Collector(env, model, config.rollout_steps, torch.Generator().manual_seed(0))
    collector.start()
    return collector, Learner(model, config, make_generator(0, 2, torch.device("cpu")))


@pytest.mark.slow
@pytest.mark.parametrize("core", CORE_NAMES)
@pytest.mark.parametrize("dialect", ["native maze", AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_ppo_ratio_is_one_on_the_first_minibatch(core: str, dialect: str) -> None:
    """In the second rollout, so that a state is carried and episodes are under way; float noise only."""
    for double, tolerance in ((False, 1e-5), (True, 1e-12)):
        kwargs = {"max_steps": 7}
        env = (
            make_vec("mnm/GridMaze9-v0", 4, 0, env_kwargs=kwargs)
            if dialect == "native maze"
            else scripted(dialect, 4)
        )
        collector, learner = build(env, double, core=core)
        collector.collect()
        metrics = learner.update(collector.collect(), progress=0.0)
        assert metrics["ratio_error_first"] < tolerance
        assert metrics["approx_kl"] > 0.0  # later minibatches did move: the test is not about a dead policy


@pytest.mark.parametrize("controller", ["lstm", "gru", "feedforward"])
def test_ppo_ratio_is_one_without_read_feedback(controller: str) -> None:
    """Acting takes steps; learning runs the controller over the segment at once."""
    for double, tolerance in ((False, 1e-5), (True, 1e-12)):
        env = make_vec("mnm/GridMaze9-v0", 4, 0, env_kwargs={"max_steps": 7})
        options = {"core": "mnm-p", "controller": controller, "read_feedback": False, "interaction_window": 2}
        collector, learner = build(env, double, **options)
        collector.collect()
        metrics = learner.update(collector.collect(), progress=0.0)
        assert metrics["ratio_error_first"] < tolerance
        assert metrics["approx_kl"] > 0.0


def test_the_ratio_test_notices_a_wrong_state() -> None:
    """If the stored state entering the rollout were lost, the ratio could not be 1."""
    collector, learner = build(scripted(AutoresetMode.SAME_STEP, 4), core="lstm")
    collector.collect()
    rollout = collector.collect()
    rollout.core_state = collector.model.core.initial_state(4)
    assert learner.update(rollout, progress=0.0)["ratio_error_first"] > 1e-4


@pytest.mark.parametrize("noise", ["replayed", "drawn again"])
def test_the_noise_drawn_while_acting_must_be_replayed(noise: str) -> None:
    """With the same noise the same slots are read and no ratio moves; with fresh noise both are different."""
    options = {"core": "hard", "slots": 5, "heads": 2}
    collector, learner = build(scripted(AutoresetMode.SAME_STEP, 8), double=True, **options)
    collector.collect()
    acted: list[torch.Tensor] = []
    act = collector.model.act
    collector.model.act = lambda *args, **kwargs: (  # type: ignore[method-assign]
        out := act(*args, **{**kwargs, "record": True}), acted.append(out.record.slot)
    )[0]  # fmt: skip
    rollout = collector.collect()
    # The rows of the rollout: all but the evaluations of final observations, which have fewer columns.
    acted = [slot for slot in acted if len(slot) == 8][: len(rollout.action)]
    if noise == "drawn again":
        rollout.noise = gumbel_noise(rollout.noise.shape).double()
    rows = rollout.columns(torch.arange(8))
    _, _, readings = collector.model.core._segment(
        collector.model.encoder(rows.obs, rows.is_first, rows.previous_action, rows.previous_reward),
        rows.core_state, rows.is_first, rows.noise,
    )  # fmt: skip
    read = torch.cat([reading.choice for reading in readings]).argmax(dim=-1)
    same, error = torch.equal(read, torch.stack(acted)), learner.update(rollout, 0.0)["ratio_error_first"]
    if noise == "replayed":
        assert same
        assert error < 1e-12
    else:
        assert not same
        assert error > 1e-3


@pytest.mark.parametrize(
    ("algo", "limit", "steps"), [("ppo", 0.0, 8), ("ppo", 1e-9, 2), ("ppo", 1e3, 8), ("a2c", 1e-9, 1)]
)
def test_an_update_ends_where_the_policy_has_moved_too_far(algo: str, limit: float, steps: int) -> None:
    """The first of 4 x 2 minibatches sees the policy that acted; the second is the first that can see another."""
    collector, learner = build(
        scripted(AutoresetMode.SAME_STEP, 4), core="lstm", algo=algo, target_kl=limit, double=True
    )
    learner.update(collector.collect(), progress=0.0)
    counts = {int(state["step"]) for state in learner.optimizer.state.values()}
    assert counts == {steps}


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_reward_action_and_value_of_invalid_rows_change_no_weight(algo: str) -> None:
    collector, learner = build(scripted(AutoresetMode.NEXT_STEP, 4), core="gru", algo=algo, rollout_steps=24)
    rollout = collector.collect()
    assert not rollout.valid.all()
    spoilt = copy.deepcopy(rollout)
    invalid = ~rollout.valid
    spoilt.reward[invalid] += 1e3
    spoilt.value[invalid] -= 1e3
    spoilt.log_prob[invalid] -= 3.0
    spoilt.action[invalid] = (spoilt.action[invalid] + 1) % 3
    # The value of an invalid row is the bootstrap of the row before it, which was filled when it was collected.
    learned = []
    for rows in (rollout, spoilt):
        twin = Learner(
            copy.deepcopy(learner.model), learner.config, make_generator(0, 2, torch.device("cpu"))
        )
        twin.update(rows, progress=0.0)
        learned.append(twin.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(learned[0].values(), learned[1].values(), strict=True))


def test_a_rollout_without_valid_rows_changes_nothing_but_is_finite() -> None:
    collector, learner = build(scripted(AutoresetMode.SAME_STEP, 4), core="mnm-p")
    rollout = collector.collect()
    rollout.valid.zero_()
    before = copy.deepcopy(learner.model.state_dict())
    metrics = learner.update(rollout, progress=0.0)
    assert all(np.isfinite(value) for value in metrics.values())
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), learner.model.state_dict().values(), strict=True)
    )


class Clock(gymnasium.Env[Any, Any]):
    """Reward 1 for ever, stopped by a time limit that the task knows nothing of."""

    observation_space = spaces.Box(0.0, 1.0, (1,), dtype=np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.ones(1, dtype=np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.ones(1, dtype=np.float32), 1.0, False, self.steps >= 5, {}


@pytest.mark.slow
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_the_value_of_an_endless_task_reaches_its_limit_in_spite_of_the_clock(mode: AutoresetMode) -> None:
    """V = 1 / (1 - gamma) = 5. Without a bootstrap at truncation it could not exceed 3."""
    env = GymnasiumVecEnv(SyncVectorEnv([Clock] * 4, autoreset_mode=mode), 0, "sync")
    collector, learner = build(
        env, core="none", gamma=0.8, learning_rate=1e-2, value_coef=1.0, previous_inputs=False, anneal=False,
        normalize_rewards=False,
    )  # fmt: skip
    for _ in range(60):
        rollout = collector.collect()
        learner.update(rollout, progress=0.0)
    assert rollout.value[rollout.valid].mean().item() == pytest.approx(5.0, abs=0.25)


def test_a2c_makes_one_pass_in_one_minibatch() -> None:
    collector, learner = build(scripted(AutoresetMode.SAME_STEP, 4), core="none", algo="a2c")
    learner.update(collector.collect(), progress=0.0)
    steps = {float(state["step"]) for state in learner.optimizer.state_dict()["state"].values()}
    assert steps == {1.0}


def test_schedules_follow_progress() -> None:
    collector, learner = build(
        scripted(AutoresetMode.SAME_STEP, 4),
        core="none",
        learning_rate=1e-3,
        anneal=True,
        entropy_coef=0.1,
        entropy_coef_final=0.0,
    )
    metrics = learner.update(collector.collect(), progress=0.75)
    assert metrics["learning_rate"] == pytest.approx(0.25e-3)
    assert metrics["entropy_coef"] == pytest.approx(0.025)


def test_columns_keep_time_and_environments_apart() -> None:
    """T != N: picking environments keeps all T rows of each."""
    collector, _ = build(scripted(AutoresetMode.SAME_STEP, 4), core="mnm-p", rollout_steps=5)
    rollout: Rollout = collector.collect()
    picked = rollout.columns(torch.tensor([3, 1]))
    assert picked.action.shape == (5, 2)
    assert torch.equal(picked.reward, rollout.reward[:, [3, 1]])
    assert torch.equal(picked.obs["obs"], rollout.obs["obs"][:5, [3, 1]])
    assert torch.equal(picked.core_state.delta1, rollout.core_state.delta1[[3, 1]])
    assert picked.noise is None


def test_columns_keep_their_noise() -> None:
    collector, _ = build(scripted(AutoresetMode.SAME_STEP, 4), core="hard", rollout_steps=5, slots=3)
    rollout: Rollout = collector.collect()
    assert torch.equal(rollout.columns(torch.tensor([3, 1])).noise, rollout.noise[:5, [3, 1]])


def test_previous_inputs_are_forgotten_where_an_episode_opens() -> None:
    env = scripted(AutoresetMode.SAME_STEP, 2)
    collector, _ = build(env, core="none")
    model: ActorCritic = collector.model
    obs = {"obs": torch.zeros(2, 2)}
    state = model.initial_state(2)._replace(action=torch.tensor([1, 2]), reward=torch.tensor([5.0, 6.0]))
    opened = model.act(obs, torch.tensor([True, True]), state)
    running = model.act(obs, torch.tensor([False, False]), state)
    assert torch.equal(opened.logits[0], opened.logits[1])
    assert not torch.equal(running.logits[0], running.logits[1])
