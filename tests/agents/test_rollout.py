"""Collecting: three autoreset dialects give the same transitions, values and advantages; state is carried."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from scripted_env import scripted

from agents.model import ActorCritic
from agents.returns import gae
from agents.rollout import Collector, Rollout
from envs import VecEnv
from memory import CORE_NAMES, CoreConfig

DIALECTS = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, "envpool")
ENVS = 3


def build(env: VecEnv, core: str, steps: int) -> Collector:
    """A collector whose policy always takes action 1 and whose value depends on all that was seen."""
    torch.manual_seed(0)
    model = ActorCritic(
        env.observation_space, env.action_space, CoreConfig(name=core, hidden_size=8, memory_size=4), 8
    ).double()
    with torch.no_grad():
        model.policy_head.bias.copy_(torch.tensor([0.0, 1000.0, 0.0]))
        model.value_head.weight.mul_(10.0)
    collector = Collector(env, model, steps, torch.Generator().manual_seed(0))
    collector.start()
    return collector


def valid_rows(rollout: Rollout, env: int) -> list[tuple[float, ...]]:
    """Observation, flags, reward, value, next value and advantage of the real transitions of one column."""
    advantage = gae(rollout.reward, rollout.value, rollout.next_value, rollout.done, 0.9, 0.8)
    columns = (rollout.obs["obs"][:-1, :, 0], rollout.obs["obs"][:-1, :, 1], rollout.is_first[:-1],
               rollout.terminated, rollout.truncated, rollout.reward, rollout.value, rollout.next_value,
               advantage)  # fmt: skip
    keep = rollout.valid[:, env]
    # Episodes that the end of the rollout cuts have advantages that depend on where it cuts.
    last_end = int(rollout.done[:, env].nonzero().max())
    keep = keep & (torch.arange(len(keep)) <= last_end)
    return list(zip(*(x[keep, env].double().tolist() for x in columns), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("core", CORE_NAMES)
def test_every_dialect_gives_the_same_valid_rows(core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The dialects have different rows, so a stream of noise would be dealt out differently.
    monkeypatch.setattr("agents.rollout.gumbel_noise", lambda shape, generator: torch.zeros(shape))
    with torch.no_grad():
        tables = [
            [valid_rows(build(scripted(mode, ENVS), core, 60).collect(), env) for env in range(ENVS)]
            for mode in DIALECTS
        ]
    for env in range(ENVS):
        count = min(len(table[env]) for table in tables)
        assert count > 30
        for table in tables[1:]:
            np.testing.assert_allclose(table[env][:count], tables[0][env][:count], rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("core", ["mnm-p", "hard"])
@pytest.mark.parametrize("mode", DIALECTS)
def test_short_rollouts_equal_one_long_rollout(mode: object, core: str) -> None:
    """State, reset flags, previous inputs and pending resets survive every cut, also between done and reset."""
    whole = build(scripted(mode, ENVS), core, 24).collect()
    collector = build(scripted(mode, ENVS), core, 1)
    for t in range(24):
        part = collector.collect()
        for field in dataclasses.fields(Rollout):
            if field.name not in ("obs", "core_state") and getattr(whole, field.name) is not None:
                mine, theirs = getattr(part, field.name)[0], getattr(whole, field.name)[t]
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9, msg=f"{field.name} at {t}")
        assert torch.equal(part.obs["obs"][0], whole.obs["obs"][t])


def test_a_truncation_bootstraps_from_the_final_observation_with_the_carried_state() -> None:
    """Recomputed by hand under SAME_STEP: the state after the last row, fed the final observation."""
    collector = build(scripted(AutoresetMode.SAME_STEP, 1), "lstm", 4)
    rollout = collector.collect()  # row 2 terminates episode 0, row 3 truncates episode 1 after one step
    assert rollout.terminated[:, 0].tolist() == [False, False, True, False]
    assert rollout.truncated[:, 0].tolist() == [False, False, False, True]
    model, state = collector.model, collector.model.initial_state(1)
    first = torch.ones(1, dtype=torch.bool)
    with torch.no_grad():
        out = model.act({"obs": torch.tensor([[1.0, 0.0]])}, first, state)
        state = model.after(out.state, rollout.action[3], rollout.reward[3])
        final = model.act({"obs": torch.tensor([[1.0, 1.0]])}, ~first, state)
    torch.testing.assert_close(rollout.next_value[3], final.value)
    assert rollout.next_value[2] == 0.0


def test_frames_count_valid_rows_only() -> None:
    same = build(scripted(AutoresetMode.SAME_STEP, ENVS), "none", 40)
    following = build(scripted(AutoresetMode.NEXT_STEP, ENVS), "none", 40)
    same.collect()
    rollout = following.collect()
    assert same.frames == 40 * ENVS
    assert following.frames == int(rollout.valid.sum()) < 40 * ENVS
