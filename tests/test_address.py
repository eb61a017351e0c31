"""Recalls of a hard memory: the tape says which step every head read, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.config import TrainConfig
from agents.evaluation import LoadedAgent, action_rng, play_episodes
from agents.trainer import build_model
from envs import held_out_seed, make_single
from memory.hard import one_hot
from recall.record import Episode, record_episode
from recall.tape import Tape

LENGTH, SLOTS, HEADS = 7, 5, 2


def agent_of(env: str = "mnm/TMaze-v0", **options: Any) -> LoadedAgent:
    """An untrained agent whose addresses are decided: it has something to say about every slot."""
    options = {"env_kwargs": f'{{"length": {LENGTH}}}', "slots": SLOTS, "heads": HEADS} | options
    config = TrainConfig(
        env=env, core="hard", hidden_size=16, embedding_size=16, memory_size=8, device="cpu", **options
    )
    made = make_single(config.env, config.env_arguments())
    model = build_model(config, made.observation_space, made.action_space).eval()
    made.close()
    torch.manual_seed(0)
    torch.nn.init.normal_(model.core.age_logits.weight, std=2.0)
    return LoadedAgent(model, config, 0, "untrained")


def record(agent: LoadedAgent, policy: str = "sample", **options: Any) -> Episode:
    env = make_single(agent.config.env, agent.config.env_arguments(), render_mode="rgb_array")
    return record_episode(agent.model, env, held_out_seed(0, 0), policy, core="hard", **options)


@pytest.mark.parametrize("policy", ["greedy", "sample"])
def test_the_tape_names_the_slot_and_the_step_that_was_read(policy: str) -> None:
    """The chosen slot is the argmax of logits + noise; its tag is the step that lies so many steps back."""
    tape = record(agent_of(), policy).tape
    found = tape.addresses
    assert tape.memory is None
    assert found is not None
    assert found.slot.shape == (tape.steps, HEADS)
    assert np.array_equal(found.slot, (found.logits + found.noise).argmax(axis=-1))
    assert found.noise.any() == (policy == "sample")
    for t in range(tape.steps):
        oldest_first = [t - age if t >= age else -1 for age in range(SLOTS, 0, -1)]
        assert found.tags[t].tolist() == oldest_first
        assert np.array_equal(np.isneginf(found.logits[t, 0]), np.array([*oldest_first, 0]) < 0)
        for i in range(HEADS):
            slot = found.slot[t, i]
            assert found.read_step[t, i] == (-1 if slot == SLOTS else t - (SLOTS - slot))
    assert (found.read_step >= 0).any()
    np.testing.assert_allclose(found.probability.sum(-1), 1.0)


def test_the_step_that_is_named_is_the_one_whose_content_was_read() -> None:
    """Another observation at a step that was read changes the value read; at one that was not it does not."""
    agent = agent_of(controller="feedforward", env_kwargs=f'{{"length": {LENGTH}}}', previous_inputs=False)
    core, encoder = agent.model.core, agent.model.encoder
    tape = record(agent).tape
    found = tape.addresses
    assert found is not None
    obs = torch.from_numpy(tape.observation["obs"]).float()
    noise = torch.from_numpy(found.noise)[:, None]
    is_first = torch.from_numpy(tape.is_first)[:, None]
    previous = (
        torch.from_numpy(tape.previous_action)[:, None],
        torch.from_numpy(tape.previous_reward)[:, None],
    )

    def read(values: torch.Tensor) -> torch.Tensor:
        """[T, H, d] what is read under the recorded addresses if the stored values are these."""
        choice = one_hot(torch.from_numpy(found.slot), torch.zeros(tape.steps, HEADS, SLOTS + 1))
        padded = torch.cat([torch.zeros(SLOTS, values.shape[-1]), values])
        window = torch.stack([padded[t : t + SLOTS] for t in range(tape.steps)])
        return choice[..., :-1] @ window

    with torch.no_grad():
        xs = encoder({"obs": obs[:, None]}, is_first, *previous)
        _, _, readings = core._segment(xs, core.initial_state(1), is_first, noise)
        values = core.value(xs)[:, 0]
        lived = torch.cat([reading.read for reading in readings])[:, 0]
        assert torch.equal(read(values), lived)
        for s in range(tape.steps):
            changed = values.clone()
            changed[s] += 1.0
            moved = (read(changed) != lived).any(dim=-1).numpy()
            assert np.array_equal(moved, found.read_step == s)


def test_a_tape_of_addresses_survives_its_file(tmp_path: Path) -> None:
    tape = record(agent_of()).tape
    tape.save(tmp_path / "tape.npz")
    loaded = Tape.load(tmp_path / "tape.npz")
    assert loaded.addresses is not None
    for name, array in tape.addresses.arrays().items():
        assert np.array_equal(loaded.addresses.arrays()[name], array, equal_nan=True), name
    assert (loaded.core, loaded.memory) == ("hard", None)


def test_recording_changes_nothing_and_the_recorded_episode_is_the_evaluated_one() -> None:
    """Actions and addresses come from the episode's own stream, whatever is played beside it."""
    agent = agent_of(env="mnm/RepeatPrevious-v0", env_kwargs='{"lag": 2, "length": 9}')
    agent.model.double()
    for policy in ("greedy", "sample"):
        alone = play_episodes(agent, 5, policy, num_envs=1)
        assert [str(r) for r in play_episodes(agent, 5, policy, num_envs=3)] == [str(r) for r in alone]
        tape = record(agent, policy, rng=action_rng(0, 0)).tape
        assert float(tape.reward.sum(dtype=np.float64)) == pytest.approx(alone[0].episode_return)
