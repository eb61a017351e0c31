"""The second peer of the speed benchmark: its network is the one it says, and it may be missing."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
import torch
from torch import nn
from torch.distributions import Distribution

from agents.config import preset
from benchmarks.speed.end_to_end import PEER, peers_at_hand
from benchmarks.speed.peers import SkrlRun, lstm_over_episodes


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


def test_a_missing_skrl_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert peers_at_hand() == [PEER]
    assert capsys.readouterr().out == "skrl is not installed and is left out: pip install 'mnm-rl[bench]'\n"
