"""The peers that leave their networks to us: these are what they say, and the packages may be missing."""

from __future__ import annotations

import dataclasses
import importlib.util
import multiprocessing
import sys
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from agents.config import preset
from benchmarks.speed.end_to_end import PEER, peers_at_hand
from benchmarks.speed.peers import SkrlRun, lstm_over_episodes, make_flat
from benchmarks.speed.torch_ac_peer import ENVS, SerialEnv, make_torch_ac
from benchmarks.speed.torchrl_peer import TorchRLRun
from envs.errors import UserError

# Not importorskip: importing it here would end the argument checks of distributions for all tests.
needs_torchrl = pytest.mark.skipif(
    importlib.util.find_spec("torchrl") is None, reason="torchrl is not installed"
)


def test_pieces_equal_the_loop_of_steps_and_resets() -> None:
    torch.manual_seed(0)
    lstm, x, is_last = nn.LSTM(3, 4, batch_first=True), torch.randn(5, 11, 3), torch.rand(5, 11) < 0.15
    is_last[2, -1] = True
    start = (torch.randn(1, 5, 4), torch.randn(1, 5, 4))
    found, (hidden, cell) = lstm_over_episodes(lstm, x, start, is_last)
    state, steps = start, []
    for t in range(11):
        y, (h, c) = lstm(x[:, t : t + 1], state)
        keep = (~is_last[:, t]).float().view(1, 5, 1)
        state = (h * keep, c * keep)
        steps.append(y)
    torch.testing.assert_close(found, torch.cat(steps, dim=1))
    torch.testing.assert_close((hidden, cell), state)


def test_learning_sees_what_acting_did() -> None:
    pytest.importorskip("skrl")
    torch.manual_seed(0)
    checks = Distribution._validate_args
    config = dataclasses.replace(
        preset("minigrid-memory"), num_envs=4, rollout_steps=128, minibatches=2, epochs=1, learning_rate=1e-30
    )
    run = SkrlRun(config)
    try:
        assert run.advance() == 4 * 128
        agent = run.trainer.agents
        names = ["observations", "actions", "terminated", "truncated", "log_prob"]
        names += ["rnn_policy_0", "rnn_policy_1"]
        ended = 0
        for batch in agent.memory.sample_all(names, mini_batches=2, sequence_length=128):
            observations, actions, terminated, truncated, log_prob, hidden, cell = batch
            ended += int((terminated | truncated).sum())
            inputs = {
                "observations": observations, "taken_actions": actions, "terminated": terminated,
                "truncated": truncated, "rnn": [hidden.transpose(0, 1), cell.transpose(0, 1)],
            }  # fmt: skip
            _, outputs = agent.policy.act(inputs, role="policy")
            torch.testing.assert_close(outputs["log_prob"], log_prob, rtol=0.0, atol=1e-6)
        assert ended > 0, "no episode ended: the rollout does not try the cut"
    finally:
        run.close()
    assert Distribution._validate_args == checks, "skrl's setting reached the other contestants"


def test_a_missing_peer_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert peers_at_hand() == [PEER]
    lines = "{} is not installed and is left out: pip install 'mnm-rl[bench]'\n"
    assert capsys.readouterr().out == lines.format("skrl") + lines.format("torchrl")


def test_torchrl_without_its_packages_is_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensordict.nn", None)
    with pytest.raises(UserError, match="torchrl is not installed"):
        TorchRLRun(preset("minigrid-memory"))


@needs_torchrl
def test_torchrl_has_our_sizes_and_its_update_changes_every_weight() -> None:
    checks = Distribution._validate_args
    config = dataclasses.replace(
        preset("minigrid-memory"), num_envs=4, rollout_steps=8, minibatches=2, epochs=2
    )
    run = TorchRLRun(config)
    try:
        weights = dict(run.parts.loss.named_parameters())
        embedding, hidden = config.embedding_size, config.hidden_size
        size = make_flat(config).observation_space.shape[0]
        lstm = sum(weight.numel() for weight in nn.LSTM(embedding, hidden).parameters())
        heads = (3 + 1) * (hidden + 1)
        assert sum(weight.numel() for weight in weights.values()) == (size + 1) * embedding + lstm + heads
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        assert run.advance() == 4 * 8
        assert not [name for name, weight in weights.items() if torch.equal(weight, before[name])]
        assert all(weight.isfinite().all() for weight in weights.values())
    finally:
        run.close()
    assert Distribution._validate_args == checks, "TorchRL's setting reached the other contestants"


def values_step_by_step(run: TorchRLRun, rollout: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Values [N, T, 1] of the observations and of the next ones, log-probabilities [N, T] of the actions."""
    embedding, lstm, logits = run.parts.policy[0]
    value = run.parts.advantage.value_network[-1].module
    state = tuple(rollout[f"recurrent_state_{part}"][:, 0].transpose(0, 1) for part in "hc")
    values, next_values, log_probs = [], [], []
    with torch.no_grad():
        x, next_x = embedding.module(rollout["observation"]), embedding.module(rollout["next", "observation"])
        for t in range(rollout.shape[1]):
            keep = rollout["is_init"][:, t].logical_not()
            y, state = lstm.lstm(x[:, t : t + 1], tuple(part * keep for part in state))
            after, _ = lstm.lstm(next_x[:, t : t + 1], state)
            values.append(value(y))
            next_values.append(value(after))
            log_probs.append(Categorical(logits=logits.module(y[:, 0])).log_prob(rollout["action"][:, t]))
    return torch.cat(values, 1), torch.cat(next_values, 1), torch.stack(log_probs, 1)


@needs_torchrl
def test_torchrl_learns_what_it_did_and_estimates_over_episodes() -> None:
    config = dataclasses.replace(
        preset("minigrid-memory"), num_envs=4, rollout_steps=128, minibatches=2, epochs=1
    )
    run = TorchRLRun(config)
    try:
        run.advance()
        rollout = next(run.rollouts)
        done, is_init = rollout["next", "done"][..., 0], rollout["is_init"][..., 0]
        assert done[:, :-1].any(), "no episode ended: the rollout does not try the cut"
        assert torch.equal(is_init[:, 1:], done[:, :-1])
        values, next_values, log_probs = values_step_by_step(run, rollout)
        losses = run.learn(rollout)
        torch.testing.assert_close(rollout["action_log_prob"], log_probs, rtol=0.0, atol=1e-6)
        torch.testing.assert_close(rollout["state_value"], values, rtol=0.0, atol=1e-6)
        torch.testing.assert_close(rollout["next", "state_value"], next_values, rtol=0.0, atol=1e-6)
        first = losses[0]  # its weights are still those that acted
        assert first["max_ratio"].item() == pytest.approx(1.0, abs=1e-5), (
            "learning does not see what acting did"
        )
        assert all(loss.isfinite().all() for loss in losses for loss in loss.values())
    finally:
        run.close()


class Countdown(gymnasium.Env[int, int]):
    """Ends after `action` steps at the latest; the observation is the number of steps, the seed after a reset."""

    observation_space, action_space = spaces.Discrete(1_000_000), spaces.Discrete(9)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return (seed or 0, {})

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.steps, 1.0, self.steps >= action, False, {}


def test_torch_acs_environments_in_one_process_are_seeded_one_by_one_and_reset_where_they_end() -> None:
    envs = SerialEnv([Countdown(), Countdown()], seed=7)
    assert envs.reset() == [7, 10_007]
    observations, rewards, terminated, truncated, _ = envs.step(torch.tensor([2, 1]).numpy())
    assert (observations, rewards) == ([1, 0], [1.0, 1.0]), "the second begins anew"
    assert (terminated, truncated) == ([False, True], [False, False])


def test_torch_ac_without_its_package_is_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    method = multiprocessing.get_start_method(allow_none=True)
    monkeypatch.setitem(sys.modules, "torch_ac", None)
    with pytest.raises(UserError, match="torch-ac is not installed"):
        make_torch_ac("MiniGrid-DoorKey-5x5-v0", 0)
    assert multiprocessing.get_start_method(allow_none=True) == method


@pytest.mark.skipif(importlib.util.find_spec("torch_ac") is None, reason="torch-ac is not installed")
def test_torch_ac_has_the_sizes_of_its_starter_files_and_its_update_changes_every_weight() -> None:
    method = multiprocessing.get_start_method(allow_none=True)
    algo = make_torch_ac("MiniGrid-DoorKey-5x5-v0", 0)
    assert multiprocessing.get_start_method(allow_none=True) == method
    assert (algo.num_frames, algo.lr, algo.recurrence, algo.batch_size) == (ENVS * 128, 1e-3, 1, 256)
    weights = dict(algo.acmodel.named_parameters())
    convolutions = (3 * 4 + 1) * 16 + (16 * 4 + 1) * 32 + (32 * 4 + 1) * 64
    assert sum(weight.numel() for weight in weights.values()) == convolutions + 2 * 65 * 64 + 65 * (7 + 1)
    for name, weight in weights.items():
        if not name.startswith("image"):
            assert (
                torch.allclose(weight.norm(dim=1), torch.ones(len(weight)))
                if weight.dim() == 2
                else not weight.any()
            )
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    algo.update_parameters(algo.collect_experiences()[0])
    assert not [name for name, weight in weights.items() if torch.equal(weight, before[name])]
