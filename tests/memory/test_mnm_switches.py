"""MNM without a part of itself: controller, read feedback, written layers, reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from memory import CoreConfig, make_core

D, H, B, X, N = 5, 3, 4, 6, 8


def test_the_feed_forward_controller_keeps_nothing_but_the_memory() -> None:
    torch.manual_seed(0)
    core = make_core(CoreConfig(name="mnm-p", hidden_size=N, memory_size=D, controller="feedforward"), X)
    state = core.initial_state(B)
    _, after = core.step(torch.randn(B, X), state)
    assert after.h.shape == after.c.shape == (B, 0)
    emptied = after._replace(**{n: torch.zeros_like(getattr(after, n)) for n in after._fields})
    x_t = torch.randn(B, X)
    fresh, _ = core.step(x_t, core.initial_state(B))
    without_memory, _ = core.step(x_t, emptied)
    with_memory, _ = core.step(x_t, after)
    assert torch.equal(without_memory.features, fresh.features)
    assert not torch.equal(with_memory.features, fresh.features)


@pytest.mark.parametrize("implementation", ["auto", "fused", "plain"])
def test_without_read_feedback_what_was_written_is_the_only_path_through_time(implementation: Any) -> None:
    torch.manual_seed(0)
    config = CoreConfig(name="mnm-p", hidden_size=N, memory_size=D, controller="feedforward")
    core = make_core(replace(config, read_feedback=False, implementation=implementation), X)
    with_feedback = make_core(replace(config, implementation=implementation), X)
    x_t, other = torch.randn(2, B, X)

    def second_answers(core: Any) -> tuple[Tensor, Tensor, Tensor]:
        """To a row after another row: as it is, with nothing written, and as the first of an episode."""
        with torch.no_grad():
            _, after = core.step(other, core.initial_state(B))
            d1, d2, d3 = (torch.zeros_like(d) for d in after.delta)
            emptied = after._replace(delta1=d1, delta2=d2, delta3=d3)
            states = (after, emptied, core.initial_state(B))
            answers = [core.step(x_t, state)[0].features for state in states]
            return answers[0], answers[1], answers[2]

    whole, emptied, fresh = second_answers(core)
    assert torch.equal(emptied, fresh)
    assert not torch.allclose(whole, fresh)
    _, emptied, fresh = second_answers(with_feedback)
    assert not torch.allclose(emptied, fresh)


def trained_for_a_while(config: CoreConfig) -> tuple[Any, Any]:
    """The core, its optimiser having taken some steps, and its state after ten further time steps."""
    torch.manual_seed(0)
    core = make_core(config, X)
    optimiser = torch.optim.Adam(core.parameters(), lr=0.1)
    is_first = torch.zeros(10, B, dtype=torch.bool)
    for _ in range(5):
        output, _ = core.unroll(torch.randn(10, B, X), core.initial_state(B), is_first)
        optimiser.zero_grad()
        (output.features.square().sum() + output.meta_loss.sum()).backward()
        optimiser.step()
    with torch.no_grad():
        return core, core.unroll(torch.randn(10, B, X), core.initial_state(B), is_first)[1]


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["auto", "fused", "plain"])
@pytest.mark.parametrize("name", ["mnm-g", "mnm-p"])
def test_layers_that_are_not_written_stay_what_they_were_however_long_one_trains(
    name: Any, implementation: Any
) -> None:
    config = CoreConfig(name, hidden_size=N, memory_size=D, implementation=implementation)
    for written, changed in (("all", [True] * 3), ("last", [False, False, True]), ("none", [False] * 3)):
        _, after = trained_for_a_while(replace(config, written_layers=written))
        assert [bool(delta.any()) for delta in after.delta] == changed


def test_what_the_writes_of_one_layer_add_to_a_read_sums_up() -> None:
    """v = mean over heads of (phi_0^3 - sum_t U_3(t)^T Z_3(t)) z^2(k^r): one term per write, and no other."""
    torch.manual_seed(0)
    config = CoreConfig("mnm-p", hidden_size=N, memory_size=D, heads=H, interaction_gain=3.0)
    core: Any = make_core(replace(config, written_layers="last"), X)
    state, terms, records = core.initial_state(B), [], []
    with torch.no_grad():
        for x_t in torch.randn(6, B, X):
            output, state = core.step(x_t, state, record=True)
            records.append(output.record)
        read = records[-1].read_hidden[1]
        for record in records:
            written = record.write_steps[2].mT @ record.write_inputs[2]
            terms.append(-(read @ written.mT).mean(dim=1))
        unwritten = core.memory.read(core.weights(core.initial_state(B)), records[-1].read_key).value.mean(
            dim=1
        )
    assert torch.allclose(unwritten + torch.stack(terms).sum(0), records[-1].value_read, atol=1e-6)
    assert torch.stack(terms).norm(dim=-1).min() > 0


def test_a_layer_that_alone_is_written_begins_small() -> None:
    config = CoreConfig("mnm-p", hidden_size=N, memory_size=D)
    first = []
    for written in ("all", "last"):
        torch.manual_seed(0)
        core: Any = make_core(replace(config, written_layers=written, update_rate="per-layer"), X)
        first.append([x.detach() for x in core.memory.initial_weights])
    (a1, a2, a3), (b1, b2, b3) = first
    assert torch.equal(a1, b1)
    assert torch.equal(a2, b2)
    assert torch.allclose(0.1 * a3, b3)


def test_weights_of_an_agent_that_writes_do_not_make_a_core_write_again() -> None:
    config = CoreConfig("mnm-p", hidden_size=N, memory_size=D, read_feedback=False)
    trained, _ = trained_for_a_while(config)
    core = make_core(replace(config, written_layers="none", read_memory=False), X)
    core.load_state_dict(trained.state_dict())
    with torch.no_grad():
        _, after = core.step(torch.randn(B, X), core.initial_state(B))
    # The compiled kernel's sigmoid ends at 4e-39.
    assert max(float(delta.abs().max()) for delta in after.delta) < 1e-37
    assert not core.output.weight[:, N:].any()


@pytest.mark.parametrize("implementation", ["auto", "fused", "plain"])
def test_a_memory_that_is_not_read_changes_nothing_that_anyone_sees(implementation: Any) -> None:
    config = CoreConfig(name="mnm-p", hidden_size=N, memory_size=D, implementation=implementation)
    x_t = torch.randn(B, X)
    for read in (True, False):
        core, after = trained_for_a_while(replace(config, read_memory=read))
        emptied = after._replace(
            value_read=torch.zeros_like(after.value_read),
            **{f"delta{layer}": torch.zeros_like(delta) for layer, delta in enumerate(after.delta, start=1)},
        )
        assert after.delta1.any()
        assert after.value_read.any()
        answers = [core.step(x_t, state)[0].features for state in (after, emptied)]
        with torch.no_grad():
            answers += [core.step(x_t, state)[0].features for state in (after, emptied)]
        assert torch.equal(answers[0], answers[1]) == torch.equal(answers[2], answers[3]) == (not read)
        torch.testing.assert_close(answers[0], answers[2])
        # What no value reaches takes no part in training: its weights are where they began.
        assert bool(core.output.weight[:, N:].any()) == read
