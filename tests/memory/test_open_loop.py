"""Without read feedback: controller and interaction layer before the time loop, and the memory's scan alone in it.

That such cores equal the plain ones, with every pattern of resets, in values and every gradient, is
tests/memory/test_fused.py; here they are compared with the loop that they replace, with steps, and with themselves.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from fused_pair import RESETS, VARIANTS, X, assert_same, gradients, lived_in, pair, resets, total_of
from torch import Tensor

from memory import CoreConfig, FusedMNMCore, MNMState, detach_state, make_core, map_state, reset_state
from memory.mnm.tape import Spec

OPEN = [name for name, config in VARIANTS.items() if not (config.read_feedback and config.read_memory)]


def everything(core: FusedMNMCore, xs: Tensor, state: MNMState, is_first: Tensor) -> dict[str, Tensor | None]:
    """Values and gradients of a segment."""
    output, final = core.unroll(xs, state, is_first)
    values = {f"{name} out": x for name, x in {**output._asdict(), **final._asdict()}.items()}
    return {**values, **gradients(core, total_of(output, final), xs, state)}


def closed_twin(core: FusedMNMCore, config: CoreConfig, implementation: Any) -> FusedMNMCore:
    """The same core with its controller inside the time loop."""
    twin, _ = pair(config, implementation)
    twin.load_state_dict(core.state_dict())
    twin.closed = True
    return twin


def test_the_list_has_every_controller_and_both_rules() -> None:
    assert {VARIANTS[name].controller for name in OPEN} == {"lstm", "gru", "feedforward"}
    assert {VARIANTS[name].name for name in OPEN} == {"mnm-p", "mnm-g"}


def test_the_loop_is_open_exactly_where_the_controller_does_not_see_what_is_read(
    monkeypatch: pytest.MonkeyPatch, implementation: str
) -> None:
    found: list[Spec] = []
    plain_segment = FusedMNMCore._segment

    def noting(self: FusedMNMCore, spec: Spec, *rest: Any) -> tuple[Tensor, ...]:
        found.append(spec)
        return plain_segment(self, spec, *rest)

    monkeypatch.setattr(FusedMNMCore, "_segment", noting)
    for name, config in VARIANTS.items():
        fused, _ = pair(config, implementation)
        fused.unroll(
            torch.randn(2, 3, X).double(), fused.initial_state(3), torch.zeros(2, 3, dtype=torch.bool)
        )
        assert found.pop().is_open == (name in OPEN)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RESETS)
@pytest.mark.parametrize("variant", OPEN)
def test_the_open_loop_equals_the_closed_one(variant: str, kind: str, implementation: str) -> None:
    core, plain = pair(VARIANTS[variant], implementation)
    closed = closed_twin(core, VARIANTS[variant], implementation)
    xs = torch.randn(18, 5, X, dtype=torch.float64, requires_grad=True)  # more steps than one stretch
    state, is_first = lived_in(plain, 5), resets(kind, 18, 5)
    mine, theirs = (everything(x, xs, state, is_first) for x in (core, closed))
    for name in theirs:
        if theirs[name] is not None or mine[name] is not None:
            assert_same(mine[name], theirs[name], name)


@pytest.mark.parametrize("variant", OPEN)
def test_a_segment_equals_its_steps(variant: str, implementation: str) -> None:
    """The acting steps from the same state, and the steps of the plain memory."""
    core, plain = pair(VARIANTS[variant], implementation)
    xs, is_first = torch.randn(7, 4, X, dtype=torch.float64), torch.rand(7, 4) < 0.3
    with torch.no_grad():
        start = detach_state(lived_in(plain, 4))
        whole, after = core.unroll(xs, start, is_first)
        for stepped in (core, plain):
            state = start
            for t in range(7):
                output, state = stepped.step(xs[t], reset_state(state, is_first[t]))
                for name in ("features", "meta_loss", "write_error"):
                    assert_same(getattr(whole, name)[t], getattr(output, name), f"{name} {t}")
            for name, mine, theirs in zip(after._fields, after, state, strict=True):
                assert_same(mine, theirs, name)


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("variant", OPEN)
def test_two_segments_equal_one(variant: str, detached: bool, implementation: str) -> None:
    """In values and gradients; where the state between them is detached, the first one gets none."""
    core, plain = pair(VARIANTS[variant], implementation)
    xs = torch.randn(9, 3, X, dtype=torch.float64, requires_grad=True)
    state, is_first = lived_in(plain, 3), resets("at random", 9, 3)
    is_first[4] = False  # the state is carried over, whole
    is_first[5:, 0] = False
    whole, final = core.unroll(xs, state, is_first)
    _, between = core.unroll(xs[:4], state, is_first[:4])
    between = detach_state(between) if detached else between
    second, last = core.unroll(xs[4:], between, is_first[4:])
    for name, mine, theirs in zip(final._fields, last, final, strict=True):
        assert_same(mine, theirs, name)
    assert_same(second.features, whole.features[4:], "features")
    of_pieces = gradients(core, second.features.square().sum(), xs, state)
    of_whole = gradients(core, whole.features[4:].square().sum(), xs, state)
    if not detached:
        for name in of_whole:
            assert_same(of_pieces[name], of_whole[name], name)
    from_first = of_pieces["xs"]
    assert from_first is not None
    assert (from_first[:4, 0].abs().sum() == 0) == (detached or core.written_layers == "none")


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize(
    "variant", ["p without read feedback", "g GRU without read feedback sees two inputs"]
)
def test_a_batch_split_for_the_cache_equals_the_whole(
    variant: str, columns: int, monkeypatch: pytest.MonkeyPatch, implementation: str
) -> None:
    core, plain = pair(VARIANTS[variant], implementation)
    xs = torch.randn(4, 5, X, dtype=torch.float64, requires_grad=True)
    state, is_first = lived_in(plain, 5), torch.rand(4, 5) < 0.2
    whole = everything(core, xs, state, is_first)
    live = 2 * 8 * sum(w.numel() for w in core.memory.initial_weights)
    monkeypatch.setattr("memory.mnm.fast.CACHE_BYTES", columns * live)
    for name, mine in everything(core, xs, state, is_first).items():
        assert_same(mine, whole[name], name)


@pytest.mark.parametrize("controller", ["lstm", "gru", "feedforward"])
def test_in_single_precision_it_equals_the_closed_loop_to_rounding(
    controller: Any, implementation: Any
) -> None:
    """The library's LSTM has another kernel for float32 than for the float64 of the other tests."""
    torch.manual_seed(0)
    config = CoreConfig("mnm-p", hidden_size=16, memory_size=8, heads=2, controller=controller)
    config = dataclasses.replace(config, read_feedback=False, implementation=implementation)
    core = make_core(config, X)
    assert isinstance(core, FusedMNMCore)
    xs, is_first = torch.randn(33, 6, X, requires_grad=True), torch.rand(33, 6) < 0.1
    state = map_state(lambda x: (0.3 * torch.randn_like(x)).requires_grad_(), core.initial_state(6))
    found = []
    for closed in (False, True):
        core.closed = closed
        found.append(everything(core, xs, state, is_first))
    for name, theirs in found[1].items():
        assert_same(found[0][name], theirs, name, tolerance=1e-4)


def test_gradients_do_not_need_training_mode(implementation: str) -> None:
    core, plain = pair(VARIANTS["p without read feedback"], implementation)
    xs = torch.randn(4, 3, X, dtype=torch.float64, requires_grad=True)
    state, is_first = lived_in(plain, 3), torch.rand(4, 3) < 0.3
    training = everything(core, xs, state, is_first)
    core.eval()
    for name, mine in everything(core, xs, state, is_first).items():
        assert_same(mine, training[name], name)


def test_a_second_derivative_is_refused_with_a_remedy(implementation: str) -> None:
    core, _ = pair(VARIANTS["p without read feedback"], implementation)
    xs = torch.randn(2, 3, X, dtype=torch.float64, requires_grad=True)
    loss = core.unroll(xs, core.initial_state(3), torch.zeros(2, 3, dtype=torch.bool))[0].features.sum()
    with pytest.raises(RuntimeError, match=r'no second derivative.*implementation="plain"'):
        torch.autograd.grad(loss, [xs], create_graph=True)


@pytest.mark.parametrize("controller", ["lstm", "gru", "feedforward"])
def test_nan_stays_in_its_own_example_and_ends_where_an_episode_opens_a_segment(
    controller: Any, implementation: Any
) -> None:
    """A reset inside the segment is a saturated gate, and 0 times NaN is NaN, as with the cores lstm and gru."""
    config = CoreConfig("mnm-p", hidden_size=6, memory_size=4, controller=controller, read_feedback=False)
    core = make_core(dataclasses.replace(config, implementation=implementation), X)
    xs, is_first = torch.randn(4, 3, X), torch.zeros(4, 3, dtype=torch.bool)
    clean, _ = core.unroll(xs, core.initial_state(3), is_first)
    spoilt_xs = xs.clone()
    spoilt_xs[1, 1] = float("nan")
    spoilt, state = core.unroll(spoilt_xs, core.initial_state(3), is_first)
    assert spoilt.features[1:, 1].isnan().all()
    assert torch.equal(spoilt.features[:, [0, 2]], clean.features[:, [0, 2]])
    is_first[0, 1] = True
    after, final = core.unroll(xs, state, is_first)
    assert torch.equal(after.features[:, 1], clean.features[:, 1])
    assert not any(x.isnan().any() for x in final)
