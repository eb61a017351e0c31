"""The fused memory, in PyTorch and compiled, against the plain one: values, every gradient, drift, refusals."""

from __future__ import annotations

import copy
import dataclasses
import gc
from typing import Any

import pytest
import torch
from fused_pair import (
    IMPLEMENTATIONS,
    RESETS,
    VARIANTS,
    X,
    assert_same,
    gradients,
    lived_in,
    pair,
    resets,
    total_of,
)
from torch import Tensor

from agents.config import TrainConfig
from agents.distributed import make_generator
from agents.learner import Learner
from agents.model import ActorCritic
from agents.rollout import Collector
from envs import make_vec
from memory import CoreConfig, FusedMNMCore, MNMCore, MNMState, detach_state, make_core, map_state
from memory.mnm.fast import backward_pass, forward_pass
from memory.mnm.tape import Lease, OutputGradients


@pytest.mark.slow
@pytest.mark.parametrize("kind", RESETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_equals_plain_in_values_and_every_gradient(variant: str, kind: str) -> None:
    cores = {name: pair(VARIANTS[variant], name) for name in IMPLEMENTATIONS}
    plain = next(iter(cores.values()))[1]
    for steps, batch in ((1, 1), (2, 3), (7, 4), (17, 3)):
        torch.manual_seed(steps)
        is_first = resets(kind, steps, batch)
        xs = torch.randn(steps, batch, X, dtype=torch.float64, requires_grad=True)
        state = lived_in(plain, batch)
        results = {}
        for name, core in {"plain": plain, **{name: fused for name, (fused, _) in cores.items()}}.items():
            output, final = core.unroll(xs, state, is_first)
            assert not output.write_error.requires_grad
            values = {**output._asdict(), **final._asdict()}
            values.pop("record")
            results[name] = values, gradients(core, total_of(output, final), xs, state)
        for name in cores:
            for mine, theirs in zip(results[name], results["plain"], strict=True):
                assert mine.keys() == theirs.keys()
                for part in theirs:
                    assert_same(mine[part], theirs[part], f"{name}: {part}")


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_batch_split_for_the_cache_equals_the_whole(
    columns: int, monkeypatch: pytest.MonkeyPatch, implementation: str
) -> None:
    for variant in ("p", "g wide", "p feed-forward"):
        fused, plain = pair(VARIANTS[variant], implementation)
        live = 2 * 8 * sum(w.numel() for w in fused.memory.initial_weights)
        monkeypatch.setattr("memory.mnm.fast.CACHE_BYTES", columns * live)
        xs = torch.randn(4, 5, X, dtype=torch.float64, requires_grad=True)
        state, is_first = lived_in(plain, 5), torch.rand(4, 5) < 0.2
        found = []
        for core in (fused, plain):
            output, final = core.unroll(xs, state, is_first)
            found.append({**gradients(core, total_of(output, final), xs, state), "out": output.features})
        for name in found[0]:
            assert_same(found[0][name], found[1][name], name)


def test_buffers_in_use_are_never_handed_out_again(implementation: str) -> None:
    """Two graphs alive at once, walked in either order, then a third on recycled buffers."""
    fused, plain = pair(VARIANTS["p"], implementation)
    nobody = torch.zeros(4, 3, dtype=torch.bool)
    xs = [torch.randn(4, 3, X, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    expected = [
        torch.autograd.grad(plain.unroll(x, plain.initial_state(3), nobody)[0].features.sum(), [x])[0]
        for x in xs
    ]
    losses = [fused.unroll(x, fused.initial_state(3), nobody)[0].features.sum() for x in xs[:2]]
    for i in (0, 1):
        assert_same(torch.autograd.grad(losses[i], [xs[i]])[0], expected[i], f"graph {i}")
    del losses
    third = fused.unroll(xs[2], fused.initial_state(3), nobody)[0].features.sum()
    assert_same(torch.autograd.grad(third, [xs[2]])[0], expected[2], "on recycled buffers")


PARTS = ["features", "meta_loss", "h", "c", "value_read", "delta1", "delta3", "recent"]
OPEN = ("p of several panels sees four inputs", "g without read feedback, rate per layer")


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_each_output_alone_has_the_gradient_of_plain(part: str, implementation: str) -> None:
    """Gradients that are absent from above are not taken for something else."""
    for variant in ("p", "g wide", *OPEN):
        fused, plain = pair(VARIANTS[variant], implementation)
        xs = torch.randn(4, 3, X, dtype=torch.float64, requires_grad=True)
        state, is_first = lived_in(plain, 3), torch.rand(4, 3) < 0.2
        found = []
        for core in (fused, plain):
            output, final = core.unroll(xs, state, is_first)
            chosen = {**output._asdict(), **final._asdict()}[part]
            found.append(gradients(core, chosen.square().sum(), xs, state))
        for name in found[0]:
            assert_same(found[0][name], found[1][name], name)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradcheck(variant: str, implementation: str) -> None:
    fused, _ = pair(VARIANTS[variant], implementation)
    xs = torch.randn(3, 2, X, dtype=torch.float64, requires_grad=True)
    state = lived_in(fused, 2)
    is_first = torch.tensor([[True, False], [False, False], [False, True]])

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        output, final = fused.unroll(tensors[0], MNMState(*tensors[1:8]), is_first)
        return tuple(x for x in (output.features, output.meta_loss, *final) if x.requires_grad and x.numel())

    everything = (xs, *state, *fused.parameters())
    assert torch.autograd.gradcheck(run, everything, fast_mode=True, atol=1e-6)


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("variant", ["p", "g wide", "p feed-forward"])
def test_segments_carried_over_equal_plain_and_leak_no_gradient(
    variant: str, detached: bool, implementation: str
) -> None:
    """Three segments in a row; the first one's inputs get a gradient only if nothing was detached."""
    fused, plain = pair(VARIANTS[variant], implementation)
    xs = torch.randn(3, 5, 4, X, dtype=torch.float64, requires_grad=True)
    is_first = torch.rand(3, 5, 4) < 0.15
    found = []
    for core in (fused, plain):
        state, total = core.initial_state(4), torch.zeros(())
        for segment, first in zip(xs, is_first, strict=True):
            output, state = core.unroll(segment, state, first)
            total = total_of(output, state)  # of the last segment only
            state = detach_state(state) if detached else state
        found.append(torch.autograd.grad(total, [xs, *core.parameters()], allow_unused=True))
    for mine, theirs in zip(*found, strict=True):
        assert_same(mine, theirs, "segments")
    assert (found[0][0][:2].abs().sum() == 0) == detached


@pytest.mark.slow
def test_a_walk_can_be_repeated_and_does_not_touch_the_tape(implementation: str) -> None:
    for variant in VARIANTS.values():
        fused, _ = pair(variant, implementation)
        xs = torch.randn(4, 3, X, dtype=torch.float64, requires_grad=True)
        output, final = fused.unroll(xs, fused.initial_state(3), torch.rand(4, 3) < 0.3)
        total = total_of(output, final)
        once = torch.autograd.grad(total, [xs], retain_graph=True)[0]
        assert torch.equal(once, torch.autograd.grad(total, [xs])[0])


def test_a_second_derivative_is_refused_with_a_remedy(implementation: str) -> None:
    fused, plain = pair(VARIANTS["p"], implementation)
    xs = torch.randn(2, 3, X, dtype=torch.float64, requires_grad=True)
    nobody = torch.zeros(2, 3, dtype=torch.bool)
    loss = fused.unroll(xs, fused.initial_state(3), nobody)[0].features.sum()
    with pytest.raises(RuntimeError, match=r'no second derivative.*implementation="plain"'):
        torch.autograd.grad(loss, [xs], create_graph=True)
    loss = plain.unroll(xs, plain.initial_state(3), nobody)[0].features.sum()
    assert torch.autograd.grad(loss, [xs], create_graph=True)[0].requires_grad


def test_a_changed_parameter_between_forward_and_backward_is_noticed(implementation: str) -> None:
    fused, _ = pair(VARIANTS["p"], implementation)
    nobody = torch.zeros(2, 3, dtype=torch.bool)
    output, _ = fused.unroll(torch.randn(2, 3, X).double(), fused.initial_state(3), nobody)
    with torch.no_grad():
        fused.memory.phi0_1.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.features.sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnm-p", "mnm-g"])
def test_weights_recovered_over_2000_steps_drift_less_than_1e_5(name: Any, implementation: Any) -> None:
    """float32: undo 2,000 writes and compare with the weights before them, relative to their size."""
    torch.manual_seed(0)
    config = CoreConfig(name=name, hidden_size=32, memory_size=32, heads=2, implementation=implementation)
    core = make_core(config, X)
    assert isinstance(core, FusedMNMCore)
    with torch.no_grad():
        core.rate.bias.fill_(3.0)  # beta near 1: large writes
        steps, batch = 2_000, 2
        state = map_state(lambda x: 0.1 * torch.randn_like(x), core.initial_state(batch))
        xs, nobody = torch.randn(steps, batch, X), torch.zeros(steps, batch, dtype=torch.bool)
        start = torch.cat([state.h, state.value_read], dim=-1)
        slow = core.slow_weights()
        segment = forward_pass(core.spec, slow, xs, None, start, state.c, nobody)  # owns the tape's buffers
        _, _, tape = segment.run(state.delta, keep=True)
        ones = torch.full((steps, batch), 1.0 / steps)
        above = OutputGradients(ones, None, None, None, (None, None, None))
        walk = backward_pass(core.spec, slow, tape, xs, nobody, above)
        walk.run()
        for recovered, before, after in zip(
            walk.recovered_weights(), core.weights(state), tape.delta, strict=True
        ):
            assert (recovered - before).norm() / before.norm() < 1e-5
            assert after.norm() > 0.1  # the writes did move the weights


def bytes_saved(core: MNMCore, steps: int, batch: int) -> int:
    """Bytes that autograd keeps for the backward of one segment, every storage once, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in core.parameters()}
    storages: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return x

    is_first = torch.zeros(steps, batch, dtype=torch.bool)
    is_first[0] = True
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        kept = core.unroll(torch.randn(steps, batch, X), core.initial_state(batch), is_first)
    del kept
    return sum(storages.values())


@pytest.mark.parametrize("name", ["mnm-p", "mnm-g"])
def test_what_is_kept_for_the_backward_grows_as_the_tape_and_not_as_the_weights(
    name: Any, implementation: Any
) -> None:
    size, batch = 48, 3
    config = CoreConfig(name=name, hidden_size=8, memory_size=size, heads=1, implementation=implementation)
    fused = make_core(config, X)
    plain = make_core(dataclasses.replace(config, implementation="plain"), X)
    weights = 3 * size * size * 4 * batch
    per_step = (bytes_saved(fused, 40, batch) - bytes_saved(fused, 20, batch)) / 20
    assert per_step < 2 * 60 * size * batch + 500 * batch  # the tape: about 60 H d bytes, and the controller
    assert per_step < 0.25 * weights
    assert (bytes_saved(plain, 40, batch) - bytes_saved(plain, 20, batch)) / 20 > weights


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_acting_step_equals_the_plain_step_and_changes_nothing_it_was_given(
    variant: str, implementation: str
) -> None:
    fused, plain = pair(VARIANTS[variant], implementation)
    with torch.no_grad():
        state = detach_state(lived_in(plain, 4))
        before = copy.deepcopy(state)
        x_t = torch.randn(4, X, dtype=torch.float64)
        mine, mine_after = fused.step(x_t, state, record=True)
        theirs, theirs_after = plain.step(x_t, state, record=True)
        quiet, quiet_after = fused.step(x_t, state)
    assert all(torch.equal(x, y) for x, y in zip(state, before, strict=True))
    for x, y in zip(mine_after, theirs_after, strict=True):
        assert_same(x, y, "state")
    for name in ("features", "meta_loss", "write_error"):
        assert_same(getattr(mine, name), getattr(theirs, name), name)
        assert torch.equal(getattr(mine, name), getattr(quiet, name))
    assert all(torch.equal(x, y) for x, y in zip(mine_after, quiet_after, strict=True))
    assert quiet.record is None
    assert mine.record is not None
    assert theirs.record is not None
    for name, x, y in zip(mine.record._fields, mine.record, theirs.record, strict=True):
        for a, b in zip(*((x, y) if isinstance(x, tuple) else ((x,), (y,))), strict=True):
            assert a.shape == b.shape
            assert_same(a, b, name)


@pytest.mark.slow
@pytest.mark.parametrize("core", ["mnm-p", "mnm-g"])
def test_learning_agrees_with_plain_over_the_first_updates(core: Any, implementation: Any) -> None:
    """PPO on a small maze from the same seed in float64: the parameters stay together."""
    finals = []
    for chosen in (implementation, "plain"):
        env = make_vec("mnm/GridMaze9-v0", 4, 0, env_kwargs={"max_steps": 9})
        config = TrainConfig(
            num_envs=4,
            core=core,
            rollout_steps=12,
            minibatches=2,
            hidden_size=12,
            memory_size=6,
            heads=2,
            embedding_size=8,
        )
        torch.manual_seed(0)
        core_config = dataclasses.replace(config.core_config(), implementation=chosen)
        model = ActorCritic(env.observation_space, env.action_space, core_config, 8).double()
        collector = Collector(env, model, config.rollout_steps, torch.Generator().manual_seed(0))
        collector.start()
        learner = Learner(model, config, make_generator(0, 2, torch.device("cpu")))
        for update in range(3):
            learner.update(collector.collect(), progress=update / 3)
        finals.append(model.state_dict())
    assert finals[0].keys() == finals[1].keys()
    for name in finals[0]:
        assert_same(finals[0][name], finals[1][name], name, tolerance=1e-7)


def test_checkpoints_load_in_both(implementation: str) -> None:
    for variant in VARIANTS.values():
        fused, plain = pair(variant, implementation)
        assert list(fused.state_dict()) == list(plain.state_dict())
        plain.load_state_dict(fused.state_dict())


@pytest.mark.slow
def test_a_tape_is_reused_only_after_its_graph_is_gone() -> None:
    """Buffers return to the shelf with the graph that owned them, and never before: a walk can be repeated."""
    fused, _ = pair(VARIANTS["p"], "fused")
    xs, nobody = torch.randn(4, 3, X, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.bool)
    gc.collect()
    Lease.clear()
    output, _ = fused.unroll(xs, fused.initial_state(3), nobody)
    first = torch.autograd.grad(
        output.features.sum(), list(fused.parameters()), retain_graph=True, allow_unused=True
    )
    between, _ = fused.unroll(-xs, fused.initial_state(3), nobody)
    again = torch.autograd.grad(output.features.sum(), list(fused.parameters()), allow_unused=True)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True) if a is not None)
    held = Lease.shelf_bytes
    del output, between
    gc.collect()
    assert Lease.shelf_bytes > held
    assert Lease.shelf_bytes == sum(x.nbytes for kept in Lease.shelf.values() for x in kept)


def test_the_shelf_of_buffers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    Lease.clear()
    monkeypatch.setattr(Lease, "LIMIT", 1_000)
    like = torch.empty(0)
    for size in (100, 100, 200, 300):  # floats of 4 bytes: 300 is more than may ever lie there
        lease = Lease(like)
        address = lease.empty(size).data_ptr()
        del lease
        assert Lease.shelf_bytes <= 1_000
    assert not any(x.data_ptr() == address for kept in Lease.shelf.values() for x in kept)
    Lease.clear()
    lease = Lease(like)
    address = lease.empty(10, 10).data_ptr()
    del lease
    assert Lease(like).empty(100).data_ptr() == address  # taken from the shelf, whatever its shape
