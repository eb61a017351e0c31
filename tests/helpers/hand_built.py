"""T-maze agents whose weights are set by hand, so that it is known what they remember and where.

The encoder passes the observation [cue up, cue down, corridor, junction] through; the controller squashes it to
0 or 1 (its fifth unit is the constant 1). Goes forward in the corridor; at the junction forward as well,
unless it remembers a cue: a known failure of the memory is then a known action.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from agents.config import TrainConfig
from agents.evaluation import LoadedAgent
from agents.model import build_model
from envs import make_single

SIZE = 8
LENGTH = 12
FORWARD, UP, DOWN = 0, 1, 2
SIGNS = torch.tensor([1.0, 1, 1, 1, -1, -1, -1, -1])
OTHER = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1])
STRONG = 20.0
"""tanh(20) is 1 in float32."""


def config(
    core: str = "mnm-p", controller: str = "feedforward", visible: bool = False, **more: Any
) -> TrainConfig:
    kwargs = {"length": LENGTH} | ({"always_visible": True} if visible else {})
    return TrainConfig(
        env="mnm/TMaze-v0", env_kwargs=json.dumps(kwargs), core=core, controller=controller, hidden_size=5,
        embedding_size=4, memory_size=SIZE, previous_inputs=False, device="cpu", **more,
    )  # fmt: skip


def blank(settings: TrainConfig) -> Any:
    """The agent of a configuration with all weights 0 and an encoder that passes the observation through."""
    env = make_single(settings.env, settings.env_arguments())
    model = build_model(settings, env.observation_space, env.action_space)
    env.close()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.encoder.parts["obs"].linear.weight.copy_(torch.eye(4))
    return model.eval()


def loaded(model: Any, settings: TrainConfig) -> LoadedAgent:
    return LoadedAgent(model, settings, 0, "built by hand")


@torch.no_grad()
def one_write_agent(addressed: bool = False, visible: bool = False) -> LoadedAgent:
    """Carries the cue by ONE write: only the last layer changes, and only in the step that shows the cue.

    With `addressed` it writes in every step with full rate: the cue under one key, a constant under another
    that is never read. Then the key alone finds the cue, whatever was written.
    """
    settings = config(visible=visible, update_rate="per-layer" if addressed else "scalar")
    model = blank(settings)
    core = model.core
    core.cell.weight[:4, :4] = STRONG * torch.eye(4)
    core.cell.bias[4] = STRONG
    # Rows of the interaction: rate (8), write key (8), target value (8), read key (8); column 4 is constant.
    up, down, constant = 0, 1, 4
    core.interaction.weight[8:16, constant] = STRONG * SIGNS
    core.interaction.weight[24:32, constant] = STRONG * SIGNS
    core.interaction.weight[16, up], core.interaction.weight[16, down] = STRONG, -STRONG
    memory = core.memory
    memory.phi0_1.copy_(torch.eye(SIZE))
    memory.phi0_2.copy_(torch.eye(SIZE))
    feedback = memory.rule.predict_targets
    feedback.weight[16:, :] = torch.eye(SIZE)
    if addressed:
        core.rate.bias.copy_(torch.tensor([-200.0, -200.0, 200.0]))  # beta is 1 in the last layer, 0 below
        core.interaction.weight[8:16, constant] = STRONG * OTHER
        core.interaction.weight[8:16, [up, down]] = (STRONG * (SIGNS - OTHER))[:, None]
        core.interaction.weight[17, constant] = STRONG
    else:
        core.interaction.weight[0, [up, down]] = STRONG
        core.rate.weight[0, 0], core.rate.bias[0] = 400.0, -200.0  # exactly 1 with the cue, exactly 0 else
        # Targets equal to what the hidden layers answer: they do not change.
        feedback.bias[:8] = torch.tanh(SIGNS)
        feedback.bias[8:16] = torch.tanh(torch.tanh(SIGNS))
    core.output.weight[:2, 2:4] = torch.eye(2)
    core.output.weight[2, 5] = 1.0
    model.policy_head.weight[FORWARD, :2] = torch.tensor([100.0, 3.0])
    model.policy_head.weight[UP, 2], model.policy_head.weight[DOWN, 2] = 10.0, -10.0
    return loaded(model, settings)


@torch.no_grad()
def slot_agent(remembers: bool = True) -> LoadedAgent:
    """Reads the slot of the step that showed the cue, and the null slot before; without `remembers` never any."""
    settings = config("hard")
    model = blank(settings)
    core = model.core
    core.cell.weight[:4, :4] = STRONG * torch.eye(4)
    core.cell.bias[4] = STRONG
    core.key.weight[0, :2] = 1.0
    core.query.bias[0] = 10 * STRONG
    core.age_logits.bias[-1] = 1.0 if remembers else 1e3
    core.value.weight[:2, :2] = torch.eye(2)
    core.output.weight[:2, 2:4] = torch.eye(2)
    core.output.weight[2:4, 5:7] = torch.eye(2)
    model.policy_head.weight[FORWARD, :2] = torch.tensor([100.0, 3.0])
    model.policy_head.weight[UP, 2], model.policy_head.weight[DOWN, 3] = 10.0, 10.0
    if not remembers:
        model.policy_head.weight[UP, 1] = 20.0
    return loaded(model, settings)


@torch.no_grad()
def indifferent_agent() -> LoadedAgent:
    """For the task with the visible cue: acts on what it sees and never writes."""
    settings = config(visible=True)
    model = blank(settings)
    core = model.core
    core.cell.weight[:4, :4] = STRONG * torch.eye(4)
    core.rate.bias[0] = -200.0
    core.output.weight[:4, :4] = torch.eye(4)
    model.policy_head.weight[FORWARD, 2] = 100.0
    model.policy_head.weight[UP, 0], model.policy_head.weight[DOWN, 1] = 10.0, 10.0
    return loaded(model, settings)


@torch.no_grad()
def lstm_agent() -> LoadedAgent:
    """The LSTM's first cell carries the cue; the memory is written and read at random, and never listened to."""
    settings = config(controller="lstm")
    model = blank(settings)
    torch.manual_seed(0)
    core = model.core
    cell, n = core.cell, 5
    gate_i, gate_f, gate_g, gate_o = (slice(k * n, (k + 1) * n) for k in range(4))
    cell.bias_ih[gate_i] = STRONG
    cell.bias_ih[gate_o] = STRONG
    cell.bias_ih[gate_f] = -STRONG
    # Unit 0 opens its input for a cue and never forgets; units 1 and 2 follow corridor and junction.
    cell.bias_ih[0], cell.bias_ih[n] = -STRONG, STRONG
    cell.weight_ih[0, :2] = 2 * STRONG
    cell.weight_ih[2 * n, 0], cell.weight_ih[2 * n, 1] = STRONG, -STRONG
    cell.weight_ih[2 * n + 1, 2] = cell.weight_ih[2 * n + 2, 3] = STRONG
    assert gate_g.start == 2 * n
    for part in (core.interaction, core.rate, core.memory.rule.predict_targets):
        part.weight.normal_(0.0, 1.0)
    for phi0 in core.memory.initial_weights:
        phi0.normal_(0.0, 0.5)
    core.output.weight[:3, :3] = torch.eye(3)
    model.policy_head.weight[FORWARD, 1:3] = torch.tensor([100.0, 2.0])
    model.policy_head.weight[UP, 0], model.policy_head.weight[DOWN, 0] = 10.0, -10.0
    return loaded(model, settings)


@torch.no_grad()
def state_agent(remembers: bool = True, visible: bool = False) -> LoadedAgent:
    """The core `lstm`: its first cell carries the cue, the next two follow corridor and junction.

    Without `remembers` the first cell too is emptied at every step, which is enough where the cue stays `visible`.
    """
    settings = config("lstm", visible=visible)
    model = blank(settings)
    rnn, n = model.core.rnn, 5
    weight, bias = rnn.weight_ih_l0, rnn.bias_ih_l0
    bias[:n] = bias[3 * n :] = STRONG
    bias[n : 2 * n] = -STRONG
    if remembers:
        bias[0], bias[n] = -STRONG, STRONG
        weight[0, :2] = 2 * STRONG
    weight[2 * n, 0], weight[2 * n, 1] = STRONG, -STRONG
    weight[2 * n + 1, 2] = weight[2 * n + 2, 3] = STRONG
    model.policy_head.weight[FORWARD, 1:3] = torch.tensor([100.0, 2.0])
    model.policy_head.weight[UP, 0], model.policy_head.weight[DOWN, 0] = 10.0, -10.0
    return loaded(model, settings)


@torch.no_grad()
def forgetful_agent() -> LoadedAgent:
    """Always turns up."""
    agent = one_write_agent()
    agent.model.core.output.weight[2] = 0.0
    agent.model.policy_head.weight[UP, :2] = torch.tensor([0.0, 20.0])
    return agent
