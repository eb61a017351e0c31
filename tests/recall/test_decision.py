"""R4: replaying the agent without a write, batched, equals replaying it one write at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hand_built import LENGTH, config, loaded, one_write_agent

from agents.model import AgentState, build_model
from envs import make_single
from envs.errors import UserError
from memory import Intervention, MNMCore
from recall.record.recorder import recorded_row
from recall.scores.decision import decision_effect, policy_effect, state_before
from recall.scores.intervene import wipe_controller, wipe_memory, without_read
from recall.validate.planted import play_planted

TOLERANCE = 1e-10


def random_agent(core, controller, heads=1, **more):
    settings = replace(
        config(core, controller, **more),
        heads=heads,
        previous_inputs=True,
        hidden_size=9,
    )
    env = make_single(settings.env, settings.env_arguments())
    model = build_model(settings, env.observation_space, env.action_space).double().eval()
    with torch.no_grad():  # large enough that a write is felt in the policy
        for parameter in model.parameters():
            parameter.mul_(2.0)
        model.policy_head.weight.normal_(0.0, 1.0, generator=torch.Generator().manual_seed(0))
    return loaded(model, settings)


@pytest.fixture(
    params=[
        ("mnm-p", "lstm", 1),
        ("mnm-p", "feedforward", 3),
        ("mnm-g", "lstm", 3),
        ("mnm-g", "feedforward", 1),
        ("mnm-p", "gru", 2),
    ],
    ids=str,
)
def played(request):
    agent = random_agent(*request.param)
    tape = play_planted(agent, 1, 0)[0].tape
    return agent.model, tape


def test_the_controller_may_be_without_read_feedback():
    model = random_agent("mnm-p", "lstm", read_feedback=False).model
    tape = play_planted(loaded(model, config("mnm-p", "lstm", read_feedback=False)), 1, 0)[0].tape
    test_the_step_with_interventions_is_the_agents_own_step((model, tape))


STEPS = 10


@torch.no_grad()
def replay_without(model, tape, s, steps):
    """Policies and values of a replay in which a hook on the model's own rate layer silences write s."""
    clock = {"t": 0}

    def silence(module, inputs, output):
        return torch.full_like(output, -torch.inf) if clock["t"] == s else output

    handle = model.core.rate.register_forward_hook(silence)
    state, log_pi, values = model.initial_state(1), [], []
    for t in range(steps):
        clock["t"] = t
        row = recorded_row(model, tape, t, 1)
        x_t = model.encoder(row.obs, row.is_first, row.action, row.reward)
        # The plain step of the core, whose parts the hook can reach.
        output, core = MNMCore.step(model.core, x_t, state.core, record=True)
        assert s != t or float(output.record.beta) == 0.0
        state = AgentState(core, row.action, row.reward)
        log_pi.append(torch.log_softmax(model.policy_head(output.features)[0], -1))
        values.append(float(model.value_head(output.features)))
    handle.remove()
    return torch.stack(log_pi), np.array(values)


def test_batched_replay_equals_one_by_one_replay(played):
    model, tape = played
    effect = decision_effect(model, tape, STEPS - 1)
    log_pi, values = replay_without(model, tape, None, STEPS)
    np.testing.assert_allclose(log_pi, torch.log_softmax(torch.tensor(tape.logits[:STEPS]), -1), atol=1e-5)
    for s in range(STEPS):
        other, other_values = replay_without(model, tape, s, STEPS)
        divergence = (log_pi.exp() * (log_pi - other)).sum(-1).numpy()
        np.testing.assert_allclose(effect.divergence[:, s], divergence, atol=TOLERANCE)
        np.testing.assert_allclose(effect.value_change[:, s], np.abs(values - other_values), atol=TOLERANCE)
        taken = torch.tensor(tape.action[:STEPS])[:, None]
        change = (other.exp() - log_pi.exp()).gather(1, taken)[:, 0].numpy()
        np.testing.assert_allclose(effect.probability_change[s:, s], change[s:], atol=TOLERANCE)
        assert effect.divergence[-1, s] > 1e-9, "an effect of size 0 would prove nothing"
    assert (np.triu(effect.divergence, 1) == 0).all()


def test_replays_in_blocks_equal_replays_in_one(played, monkeypatch):
    model, tape = played
    whole = decision_effect(model, tape, STEPS - 1)
    monkeypatch.setattr("recall.scores.decision.batch_size", lambda core: 3)
    for ours, theirs in zip(decision_effect(model, tape, STEPS - 1), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)
        assert np.tril(ours).any()


def test_the_step_with_interventions_is_the_agents_own_step(played):
    model, tape = played
    state = model.initial_state(1)
    for t in range(6):
        row = recorded_row(model, tape, t, 1)
        state = AgentState(state.core, row.action, row.reward)
        with torch.no_grad():
            plain = model.act(row.obs, row.is_first, state)
            ours = model.act(row.obs, row.is_first, state, intervention=Intervention())
        torch.testing.assert_close(ours.logits, plain.logits, rtol=0, atol=1e-12)
        torch.testing.assert_close(ours.value, plain.value, rtol=0, atol=1e-12)
        for a, b in zip(ours.state.core, plain.state.core, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        before = state_before(model, tape, t)
        for a, b in zip(before.core, state.core, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        state = plain.state


def test_a_reset_inside_the_recorded_row_is_obeyed(played):
    model, tape = played
    row = recorded_row(model, tape, 0, 2)
    dirty = state_before(model, tape, 5)
    dirty = AgentState(
        type(dirty.core)(*(x.expand(2, *x.shape[1:]) for x in dirty.core)), row.action, row.reward
    )
    clean = model.initial_state(2)
    with torch.no_grad():
        ours = model.act(row.obs, torch.tensor([True, True]), dirty, intervention=Intervention())
        fresh = model.act(row.obs, torch.tensor([True, True]), clean, intervention=Intervention())
    torch.testing.assert_close(ours.logits, fresh.logits, rtol=0, atol=0)


def test_layers_with_rates_of_their_own_are_silenced_together():
    agent = random_agent("mnm-g", "lstm", update_rate="per-layer")
    tape = play_planted(agent, 1, 0)[0].tape
    log_pi, _ = replay_without(agent.model, tape, None, 6)
    other, _ = replay_without(agent.model, tape, 2, 6)
    divergence = (log_pi.exp() * (log_pi - other)).sum(-1).numpy()
    np.testing.assert_allclose(
        decision_effect(agent.model, tape, 5).divergence[:, 2], divergence, atol=TOLERANCE
    )


@pytest.mark.slow
def test_the_write_that_decides_is_the_only_one_with_an_effect():
    agent = one_write_agent()
    for episode in play_planted(agent, 8, 3):
        effect = decision_effect(agent.model, episode.tape)
        needed = effect.divergence[LENGTH]
        assert needed[episode.cue_step] > 1.0
        others = np.delete(needed, episode.cue_step)
        np.testing.assert_allclose(others, 0.0, atol=1e-6)  # beta is 0 in all other steps
        assert effect.probability_change[LENGTH, episode.cue_step] < -0.9
        assert policy_effect(agent.model, episode.tape, LENGTH)[LENGTH] > 0.9
        assert policy_effect(agent.model, episode.tape)[LENGTH - 1] < 1e-6  # it goes forward anyway


def test_wiping_leaves_the_other_channel_alone():
    agent = random_agent("mnm-p", "lstm")
    tape = play_planted(agent, 1, 0)[0].tape
    state = state_before(agent.model, tape, 5)
    memory, controller = wipe_memory(state).core, wipe_controller(state).core
    assert all(not part.any() for part in memory.delta)
    assert torch.equal(memory.h, state.core.h)
    assert torch.equal(memory.value_read, state.core.value_read)
    assert all(torch.equal(a, b) for a, b in zip(controller.delta, state.core.delta, strict=True))
    assert not controller.h.any()
    assert not controller.c.any()
    assert not controller.value_read.any()


@torch.no_grad()
def test_an_agent_without_its_read_receives_zeros(played):
    model, tape = played
    deaf = without_read(model)
    listening, core = model.initial_state(1), model.core
    state = deaf.initial_state(1)
    for t in range(5):
        row = recorded_row(model, tape, t, 1)
        out = deaf.act(row.obs, row.is_first, AgentState(state.core, row.action, row.reward))
        state = out.state
        # By hand: the agent's own step, its last value read and the one of this step replaced by 0.
        x_t = model.encoder(row.obs, row.is_first, row.action, row.reward)
        silence = torch.zeros_like(listening.core.value_read)
        output, after = MNMCore.step(core, x_t, listening.core._replace(value_read=silence), record=True)
        from_value = output.record.value_read @ core.output.weight[:, core.output_size :].T
        logits = model.policy_head(output.features - from_value)
        torch.testing.assert_close(out.logits, logits, rtol=0, atol=TOLERANCE)
        listening = listening._replace(core=after)
    assert any(part.any() for part in state.core.delta), "it still writes"
    assert decision_effect(deaf, tape, STEPS - 1).divergence.max() < TOLERANCE
    assert decision_effect(model, tape, STEPS - 1).divergence.max() > 1e-6


def test_cores_without_write_memory_are_refused():
    settings = config("lstm")
    env = make_single(settings.env, settings.env_arguments())
    model = build_model(settings, env.observation_space, env.action_space)
    tape = play_planted(one_write_agent(), 1, 0)[0].tape
    with pytest.raises(UserError, match="no write memory"):
        decision_effect(model, tape)
