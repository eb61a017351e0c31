"""What every memory core promises: unroll == steps, resets == separate sequences, gradients, independence."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from memory import (
    CORE_NAMES,
    CoreConfig,
    MemoryCore,
    detach_state,
    gumbel_noise,
    make_core,
    map_state,
    select_state,
)
from memory.recurrent.gru_sequence import GRUSequence

T, B, X, N, D, H = 9, 5, 6, 7, 4, 3
VARIANTS = [
    *(CoreConfig(name=name, hidden_size=N, memory_size=D, heads=H) for name in CORE_NAMES),
    CoreConfig(name="mnm-g", hidden_size=N, memory_size=D, memory_hidden=D + 2, heads=1),
    CoreConfig(name="mnm-p", hidden_size=N, memory_size=D, controller="feedforward", update_rate="per-layer"),
    CoreConfig(name="mnm-p", hidden_size=N, memory_size=D, controller="feedforward", read_feedback=False),
    CoreConfig(name="mnm-p", hidden_size=N, memory_size=D, initial_weights="fixed"),
    CoreConfig(name="mnm-p", hidden_size=N, memory_size=D, heads=H, controller="gru"),
    CoreConfig(name="mnm-g", hidden_size=N, memory_size=D, controller="gru", implementation="plain"),
    CoreConfig(name="mnm-p", hidden_size=N, memory_size=D, written_layers="last", read_memory=False),
    CoreConfig(name="mnm-p", hidden_size=N, memory_size=D, heads=H, implementation="plain"),
    CoreConfig(name="mnm-g", hidden_size=N, memory_size=D, memory_hidden=D + 2, implementation="plain"),
    CoreConfig(name="hard", hidden_size=N, memory_size=D, slots=4, heads=2, slot_value="controller"),
    CoreConfig(name="hard", hidden_size=N, memory_size=D, slots=2, controller="feedforward"),
    CoreConfig(name="hard", hidden_size=N, memory_size=D, slots=3, controller="gru"),
    CoreConfig(name="examples.gated_delta:GatedDelta", kwargs={"heads": H, "size": D, "output_size": N}),
]
RESETS = {
    "none": lambda: torch.zeros(T, B, dtype=torch.bool),
    "at the start": lambda: torch.arange(T)[:, None].expand(T, B) == 0,
    "in a row, and at the last step": lambda: (
        torch.isin(torch.arange(T), torch.tensor([3, 4, T - 1])).expand(B, T).T
    ),
    "at random": lambda: torch.rand(T, B) < 0.3,
}


def identify(variant: CoreConfig) -> str:
    return "-".join(
        (
            variant.name,
            f"H{variant.heads}",
            variant.controller,
            variant.initial_weights,
            variant.implementation,
        )
        + ((f"N{variant.slots}", variant.slot_value) if variant.name == "hard" else ())
    )


@pytest.fixture(params=VARIANTS, ids=identify)
def core(request: pytest.FixtureRequest) -> MemoryCore:
    torch.manual_seed(0)
    return make_core(request.param, X).double()


def inputs(core: MemoryCore) -> tuple[Tensor, Any]:
    """A segment's inputs, and a state that has already lived a little, both asking for gradients."""
    xs = torch.randn(T, B, X, dtype=torch.float64, requires_grad=True)
    _, state = core.unroll(
        torch.randn(3, B, X, dtype=torch.float64), core.initial_state(B), torch.zeros(3, B, dtype=torch.bool)
    )
    return xs, map_state(lambda x: x.detach().requires_grad_(), state)


def noise_of(core: MemoryCore) -> Tensor | None:
    """Noise of a segment for a core that consumes it; None for the others."""
    return None if core.noise_shape is None else gumbel_noise((T, B, *core.noise_shape)).double()


def outcome(core: MemoryCore, output: Any, final: Any) -> list[Tensor]:
    return [output.features, output.meta_loss, output.write_error, *final]


def gradients(core: MemoryCore, xs: Tensor, state: Any, output: Any, final: Any) -> list[Tensor]:
    """Gradients of a fixed random function of everything, w.r.t. inputs, initial state and parameters.

    Not `randn_like`: it draws in the order of memory, and a state may lie transposed.
    """
    torch.manual_seed(7)
    total = sum(
        (x * torch.randn(x.shape, dtype=x.dtype)).sum() for x in [output.features, output.meta_loss, *final]
    )
    everything = [xs, *state, *core.parameters()]
    return list(torch.autograd.grad(total, everything, allow_unused=True, materialize_grads=True))


@pytest.mark.slow
@pytest.mark.parametrize("resets", RESETS)
def test_unroll_equals_repeated_steps_in_values_and_gradients(core: MemoryCore, resets: str) -> None:
    xs, state = inputs(core)
    is_first, noise = RESETS[resets](), noise_of(core)
    whole = core.unroll(xs, state, is_first, noise)
    steps = MemoryCore.unroll(core, xs, state, is_first, noise)  # the definition: a loop of reset and step
    for mine, theirs in zip(outcome(core, *whole), outcome(core, *steps), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)
    for mine, theirs in zip(
        gradients(core, xs, state, *whole), gradients(core, xs, state, *steps), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.slow
def test_one_batch_with_resets_equals_separate_sequences(core: MemoryCore) -> None:
    """Column b, cut at its resets, run piece by piece alone, gives the same values and input gradients."""
    xs, state = inputs(core)
    torch.manual_seed(3)
    is_first, noise = torch.rand(T, B) < 0.3, noise_of(core)
    output, final = core.unroll(xs, state, is_first, noise)
    (input_gradient,) = torch.autograd.grad(output.features.square().sum() + output.meta_loss.sum(), [xs])
    for b in range(B):
        cuts = sorted({0, T, *is_first[:, b].nonzero().flatten().tolist()})
        for start, stop in itertools.pairwise(cuts):
            piece = xs[start:stop, b : b + 1].detach().requires_grad_()
            carried = select_state(state, torch.tensor([b]))
            entering = core.initial_state(1) if is_first[start, b] else carried
            none_first = torch.zeros(stop - start, 1, dtype=torch.bool)
            given = None if noise is None else noise[start:stop, b : b + 1]
            alone, last = core.unroll(piece, entering, none_first, given)
            torch.testing.assert_close(
                alone.features[:, 0], output.features[start:stop, b], rtol=1e-12, atol=1e-13
            )
            (gradient,) = torch.autograd.grad(alone.features.square().sum() + alone.meta_loss.sum(), [piece])
            torch.testing.assert_close(gradient[:, 0], input_gradient[start:stop, b], rtol=1e-10, atol=1e-12)
        for mine, whole in zip(last, final, strict=True):
            torch.testing.assert_close(mine[0], whole[b], rtol=1e-12, atol=1e-13)


@pytest.mark.slow
def test_gradcheck_of_unroll(core: MemoryCore) -> None:
    """Finite differences in float64: inputs, initial state and every parameter, phi_0 included."""
    if core.addresses:
        pytest.skip("the straight-through gradient of an address is not a derivative; see test_hard_core.py")
    steps, batch = 3, 2
    xs = torch.randn(steps, batch, X, dtype=torch.float64, requires_grad=True)
    is_first = torch.tensor([[False, False], [False, True], [False, False]])
    state = map_state(lambda x: (0.1 * torch.randn_like(x)).requires_grad_(), core.initial_state(batch))
    width = len(state)

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        # The parameters are among the inputs and are perturbed in place, so the core itself sees them move.
        output, final = core.unroll(tensors[0], type(state)(*tensors[1 : 1 + width]), is_first)
        return tuple(x for x in (output.features, output.meta_loss, *final) if x.requires_grad)

    everything = (xs, *state, *core.parameters())
    assert torch.autograd.gradcheck(run, everything, fast_mode=True, atol=1e-6)


def test_the_gradient_check_sees_the_parameters() -> None:
    """A core whose parameters had no gradient would have to fail the check above."""
    core = make_core(CoreConfig(name="gru", hidden_size=N), X).double()
    xs, nobody = torch.randn(2, B, X, dtype=torch.float64), torch.zeros(2, B, dtype=torch.bool)
    weight = next(core.parameters())
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(
            lambda w: core.unroll(xs, core.initial_state(B), nobody)[0].features.detach() + 0.0 * w.sum(),
            (weight,),
        )


def test_a_reset_of_one_example_leaves_the_others_bit_identical(core: MemoryCore) -> None:
    xs, state = inputs(core)
    nobody = torch.zeros(T, B, dtype=torch.bool)
    one = nobody.clone()
    one[4, 2] = True
    noise = noise_of(core)
    plain, _ = MemoryCore.unroll(core, xs, state, nobody, noise)
    reset, _ = MemoryCore.unroll(core, xs, state, one, noise)
    others = [b for b in range(B) if b != 2]
    assert torch.equal(plain.features[:, others], reset.features[:, others])
    if state:
        assert not torch.equal(plain.features[4:, 2], reset.features[4:, 2])


def test_permuting_the_batch_permutes_the_results(core: MemoryCore) -> None:
    xs, state = inputs(core)
    is_first = torch.rand(T, B) < 0.2
    order, noise = torch.randperm(B), noise_of(core)
    output, final = core.unroll(xs, state, is_first, noise)
    shuffled, shuffled_final = core.unroll(
        xs[:, order],
        select_state(state, order),
        is_first[:, order],
        None if noise is None else noise[:, order],
    )
    torch.testing.assert_close(shuffled.features, output.features[:, order], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(shuffled.meta_loss, output.meta_loss[:, order], rtol=1e-12, atol=1e-13)
    for mine, theirs in zip(shuffled_final, final, strict=True):
        torch.testing.assert_close(mine, theirs[order], rtol=1e-12, atol=1e-13)


def test_a_detached_state_keeps_values_and_cuts_the_gradient(core: MemoryCore) -> None:
    xs, state = inputs(core)
    nobody = torch.zeros(T, B, dtype=torch.bool)
    whole, _ = core.unroll(xs, state, nobody)
    first, middle = core.unroll(xs[:4], state, nobody[:4])
    second, _ = core.unroll(xs[4:], detach_state(middle), nobody[4:])
    halves = torch.cat([first.features, second.features])
    torch.testing.assert_close(halves, whole.features, rtol=1e-12, atol=1e-13)
    (gradient,) = torch.autograd.grad(second.features.sum(), [xs])
    assert gradient[:4].abs().sum() == 0
    assert gradient[4:].abs().sum() > 0


def test_state_dict_round_trip_is_bit_exact(core: MemoryCore) -> None:
    xs, state = inputs(core)
    is_first = torch.rand(T, B) < 0.2
    twin = copy.deepcopy(core)
    with torch.no_grad():
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.zero_()
    twin.load_state_dict(core.state_dict())
    before, after = core.unroll(xs, state, is_first)[0], twin.unroll(xs, state, is_first)[0]
    assert torch.equal(before.features, after.features)


def test_the_initial_state_is_zero(core: MemoryCore) -> None:
    assert all((x == 0).all() for x in core.initial_state(B))


@pytest.mark.parametrize("name", ["mnm-p", "mnm-g", "hard"])
def test_a_record_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    core = make_core(CoreConfig(name=name, hidden_size=N, memory_size=D, heads=H), X)
    x_t, state = torch.randn(B, X), core.initial_state(B)
    plain, after = core.step(x_t, state)
    recorded, after_recorded = core.step(x_t, state, record=True)
    assert torch.equal(plain.features, recorded.features)
    assert all(torch.equal(x, y) for x, y in zip(after, after_recorded, strict=True))
    assert plain.record is None
    assert recorded.record is not None


@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("resets", [0.0, 0.1, 0.9])
def test_one_kernel_call_per_segment_whatever_the_resets(
    name: str, resets: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    core, calls = make_core(CoreConfig(name=name, hidden_size=N), X), []
    owner, kernel = (torch, "lstm") if name == "lstm" else (GRUSequence, "apply")
    real = getattr(owner, kernel)
    monkeypatch.setattr(owner, kernel, lambda *args: (calls.append(1), real(*args))[1])
    core.unroll(torch.randn(20, B, X), core.initial_state(B), torch.rand(20, B) < resets)
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_the_kernels_of_float32_agree_with_steps(name: str) -> None:
    """In float32 the library takes other kernels than in float64; a row before a reset must not leak into it."""
    torch.manual_seed(0)
    core = make_core(CoreConfig(name=name, hidden_size=32), X)
    xs, is_first = torch.randn(40, B, X, requires_grad=True), torch.rand(40, B) < 0.1
    is_first[17, 2] = True
    state = map_state(lambda x: torch.randn_like(x), core.initial_state(B))
    mine, theirs = core.unroll(xs, state, is_first), MemoryCore.unroll(core, xs, state, is_first)
    torch.testing.assert_close(mine[0].features, theirs[0].features, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine[1], theirs[1], rtol=1e-5, atol=1e-6)
    for output, final in (mine, theirs):
        leak = torch.autograd.grad(
            output.features[17:, 2].sum() + final[0][2].sum(), [xs], retain_graph=True
        )[0]
        assert (leak[:17, 2] == 0).all()
    found = [
        torch.autograd.grad(output.features.square().sum() + final[-1].sum(), [xs, *core.parameters()])
        for output, final in (mine, theirs)
    ]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_a_second_derivative_of_the_gru_is_refused() -> None:
    core = make_core(CoreConfig(name="gru", hidden_size=N), X)
    xs = torch.randn(4, B, X, requires_grad=True)
    output, _ = core.unroll(xs, core.initial_state(B), torch.zeros(4, B, dtype=torch.bool))
    (first,) = torch.autograd.grad(output.features.square().sum(), [xs], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_unknown_core_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown core 'lstmm' .did you mean lstm.*; valid: none, lstm"):
        make_core(CoreConfig(name="lstmm"), X)  # type: ignore[arg-type]
