"""The compiled kernel itself: how it is built and found, what happens without it, its activations, its state.

That it computes what the plain memory computes is tests/memory/test_fused.py.
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
import threading
from ctypes import c_int64, c_void_p
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import train_rl
from envs.errors import UserError
from memory import CoreConfig, FusedMNMCore, make_core, map_state
from memory.mnm.cpp_backend.bindings import kernel_for
from memory.mnm.cpp_backend.build import KernelUnavailable, find_kernel, library_path, load

COMPILED = CoreConfig(name="mnm-p", hidden_size=6, memory_size=4, heads=2, implementation="compiled")


@pytest.fixture
def library() -> Any:
    found = find_kernel()
    if isinstance(found, KernelUnavailable):
        pytest.skip(f"no compiled kernel: {found}")
    return found


def run_both(library: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """tanh and sigmoid of the kernel."""
    tanh, sigmoid = torch.empty_like(x), torch.empty_like(x)
    places = (c_void_p(y.data_ptr()) for y in (x, tanh, sigmoid))
    library.mnm_activations(*places, c_int64(len(x)))
    return tanh, sigmoid


def test_tanh_and_sigmoid_are_right_to_a_few_units_in_the_last_place(library: Any) -> None:
    x = torch.cat([torch.linspace(-20, 20, 400_001), 10.0 ** torch.linspace(-30, 1.9, 10_001)])
    tanh, sigmoid = run_both(library, x)
    exact = x.double()
    for mine, true in ((tanh, exact.tanh()), (sigmoid, exact.sigmoid())):
        unit = torch.finfo(torch.float32).eps
        assert ((mine.double() - true).abs() / true.abs().clamp_min(1e-35)).max() < 3 * unit


def test_activations_at_the_ends_and_nan(library: Any) -> None:
    x = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0, -0.0, 3e38, -3e38])
    tanh, sigmoid = run_both(library, x)
    assert tanh[:2].tolist() == [1.0, -1.0]
    assert tanh[5:].tolist() == [1.0, -1.0]
    assert tanh.isnan().tolist() == sigmoid.isnan().tolist() == x.isnan().tolist()
    assert sigmoid[0] == 1.0
    assert 0.0 <= sigmoid[1] < 1e-37


def test_nan_stays_in_its_own_example(library: Any) -> None:
    core = make_core(COMPILED, 5)
    xs = torch.randn(4, 3, 5)
    nobody = torch.zeros(4, 3, dtype=torch.bool)
    clean = core.unroll(xs, core.initial_state(3), nobody)[0].features
    xs[1, 1] = float("nan")
    first = nobody.clone()
    first[3, 1] = True
    spoilt = core.unroll(xs, core.initial_state(3), first)[0].features
    assert spoilt[1:3, 1].isnan().all()
    assert torch.equal(spoilt[:, [0, 2]], clean[:, [0, 2]])
    assert not spoilt[3].isnan().any()  # the reset ends it


@pytest.mark.parametrize("threads", [2, 5])
def test_the_result_does_not_depend_on_the_number_of_threads(library: Any, threads: int) -> None:
    core = make_core(COMPILED, 5).double()
    xs = torch.randn(5, 15, 5, dtype=torch.float64, requires_grad=True)
    is_first = torch.rand(5, 15) < 0.3
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            output, _ = core.unroll(xs, core.initial_state(15), is_first)
            total = output.features.square().sum() + output.meta_loss.sum()
            found.append([output.features, *torch.autograd.grad(total, [xs, *core.parameters()])])
    finally:
        torch.set_num_threads(before)
    for one, several in zip(*found, strict=True):
        assert torch.allclose(one, several, rtol=1e-12, atol=1e-13)


def test_the_acting_step_notices_that_a_parameter_changed(library: Any) -> None:
    core = make_core(COMPILED, 5)
    plain = make_core(dataclasses.replace(COMPILED, implementation="plain"), 5)
    x_t = torch.randn(3, 5)
    with torch.no_grad():
        state = map_state(lambda x: 0.1 * torch.randn_like(x), core.initial_state(3))

        def assert_up_to_date() -> None:
            core.step(x_t, state)  # what it prepares here must not serve for what follows
            plain.load_state_dict(core.state_dict())
            for mine, theirs in zip(core.step(x_t, state)[1], plain.step(x_t, state)[1], strict=True):
                assert torch.allclose(mine, theirs, atol=1e-5)

        assert_up_to_date()
        for parameter in core.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
            assert_up_to_date()
        core.load_state_dict({k: 0.9 * v for k, v in core.state_dict().items()}, assign=True)
        assert_up_to_date()
        x_t = torch.randn(4, 5)
        state = map_state(lambda x: 0.1 * torch.randn_like(x), core.initial_state(4))
        assert_up_to_date()
        core.double(), plain.double()
        x_t, state = x_t.double(), map_state(Tensor.double, state)
        assert_up_to_date()


@pytest.mark.slow
@pytest.mark.parametrize("acts", ["before the pass", "before the backward", "before the step"])
@pytest.mark.parametrize("by", ["unroll", "step"])
@pytest.mark.parametrize("choice", ["fused", "foreach", "plain"])
def test_the_acting_step_notices_every_kind_of_optimizer_step(
    library: Any, choice: str, by: str, acts: str
) -> None:
    """A fused optimizer writes without raising the version of what it writes to, and nobody tells the core."""
    core = make_core(COMPILED, 5)
    plain = make_core(dataclasses.replace(COMPILED, implementation="plain"), 5)
    kind = {"fused": {"fused": True}, "foreach": {"foreach": True}, "plain": {"foreach": False}}
    optimizer = torch.optim.Adam(core.parameters(), lr=0.1, **kind[choice])
    x_t, nobody = torch.randn(3, 5), torch.zeros(1, 3, dtype=torch.bool)
    state, acted = core.initial_state(3), []

    def act(when: str) -> None:
        with torch.no_grad():
            if when == acts or when == "now":
                acted.append(core.step(x_t, state)[0].features)

    act("before the pass")
    output = core.step(x_t, state)[0] if by == "step" else core.unroll(x_t[None], state, nobody)[0]
    act("before the backward")
    (output.features.square().mean() + output.meta_loss.mean()).backward()
    act("before the step")
    optimizer.step()
    optimizer.zero_grad()
    act("now")
    plain.load_state_dict(core.state_dict())
    with torch.no_grad():
        assert torch.allclose(acted[-1], plain.step(x_t, state)[0].features, atol=1e-5)
    assert not torch.allclose(*acted, atol=1e-2)


@pytest.mark.parametrize("choice", ["fused", "plain"])
def test_what_an_acting_step_prepared_serves_the_next_one(library: Any, choice: str) -> None:
    core = make_core(COMPILED, 5)
    assert isinstance(core, FusedMNMCore)
    optimizer = torch.optim.SGD(core.parameters(), lr=0.1, fused=choice == "fused")
    state = core.initial_state(3)

    def is_kept() -> bool:
        with torch.no_grad():
            core.step(torch.randn(3, 5), state)
            before = core.stage
            core.step(torch.randn(3, 5), state)
        return core.stage is not None and core.stage is before

    assert is_kept()
    core.unroll(torch.randn(2, 3, 5), state, torch.zeros(2, 3, dtype=torch.bool))[0].features.sum().backward()
    assert not is_kept()
    optimizer.step()
    assert is_kept() == (choice == "plain")
    core.parameters_changed()
    assert is_kept()


def test_a_layer_replaced_after_acting_is_seen(library: Any) -> None:
    core, x_t = make_core(COMPILED, 5), torch.randn(3, 5)
    assert isinstance(core, FusedMNMCore)
    with torch.no_grad():
        before = core.step(x_t, core.initial_state(3))[0].features
        core.interaction = copy.deepcopy(core.interaction)
        core.interaction.weight.mul_(2.0)
        after = core.step(x_t, core.initial_state(3))[0].features
        assert torch.equal(after, copy.deepcopy(core).step(x_t, core.initial_state(3))[0].features)
    assert not torch.equal(before, after)


def test_a_core_that_has_acted_can_be_copied_and_pickled(library: Any) -> None:
    core = make_core(COMPILED, 5)
    x_t = torch.randn(3, 5)
    with torch.no_grad():
        expected = core.step(x_t, core.initial_state(3))[0].features
        for twin in (copy.deepcopy(core), pickle.loads(pickle.dumps(core))):
            assert torch.equal(twin.step(x_t, twin.initial_state(3))[0].features, expected)


def test_kept_states_are_not_overwritten_by_later_steps(library: Any) -> None:
    core = make_core(COMPILED, 5)
    with torch.no_grad():
        output, state = core.step(torch.randn(3, 5), core.initial_state(3), record=True)
        kept = copy.deepcopy((output, state))
        core.step(torch.randn(3, 5), state, record=True)
    for mine, before in zip(flat((output, state)), flat(kept), strict=True):
        assert torch.equal(mine, before)


def flat(values: Any) -> list[Tensor]:
    return [values] if isinstance(values, Tensor) else [x for value in values for x in flat(value)]


def test_without_a_kernel_auto_is_the_fused_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "memory.mnm.cpp_backend.bindings.find_kernel", lambda: KernelUnavailable("this is a test")
    )
    torch.manual_seed(0)
    auto, fused = (
        make_core(dataclasses.replace(COMPILED, implementation=name), 5) for name in ("auto", "fused")
    )
    fused.load_state_dict(auto.state_dict())
    xs, nobody = torch.randn(4, 3, 5), torch.zeros(4, 3, dtype=torch.bool)
    found = [core.unroll(xs, core.initial_state(3), nobody)[0].features for core in (auto, fused)]
    assert torch.equal(*found)
    with torch.no_grad():
        found = [core.step(xs[0], core.initial_state(3))[0].features for core in (auto, fused)]
    assert torch.equal(*found)


def test_half_precision_and_other_devices_take_the_fused_memory() -> None:
    assert kernel_for(torch.empty(1, dtype=torch.bfloat16)) is None
    assert kernel_for(torch.empty(1, device="meta")) is None


def test_asked_for_by_name_without_a_compiler_it_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "memory.mnm.cpp_backend.build.find_kernel", lambda: KernelUnavailable("no C++ compiler was found")
    )
    with pytest.raises(UserError, match=r"'compiled' cannot be used because no C\+\+ compiler.*'fused'"):
        make_core(COMPILED, 5)
    assert isinstance(make_core(dataclasses.replace(COMPILED, implementation="auto"), 5), FusedMNMCore)


def test_a_run_without_the_kernel_it_asks_for_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "memory.mnm.cpp_backend.build.find_kernel", lambda: KernelUnavailable("no C++ compiler was found")
    )
    with pytest.raises(UserError, match="no C"):
        train_rl.main(["--implementation", "compiled", "--run-dir", str(tmp_path / "run")])
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.slow
def test_processes_that_build_at_once_end_with_one_whole_library(
    library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that writes its result slowly and in pieces, started by three at once."""
    built, places = library_path(), []
    compiler = tmp_path / "slow"
    copy_slowly = "\n".join(
        [
            "#!" + sys.executable,
            "import sys, time",
            f"whole = open({str(built)!r}, 'rb').read()",
            "out = open(sys.argv[sys.argv.index('-o') + 1], 'wb')",
            "for i in range(4):",
            "    out.write(whole[i * len(whole) // 4 : (i + 1) * len(whole) // 4]); out.flush(); time.sleep(0.1)",
        ]
    )
    compiler.write_text(copy_slowly)
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    workers = [threading.Thread(target=lambda: places.append(load(library_path()))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [place.mnm_vector_bytes() for place in places] == [library.mnm_vector_bytes()] * 3
    assert [path.name for path in (tmp_path / "cache" / "mnm_rl").iterdir()] == [library_path().name]


def test_a_compiler_that_fails_leaves_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'no room' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    with pytest.raises(KernelUnavailable, match=r"failed \(no room"):
        load(library_path())
    assert not list((tmp_path / "cache" / "mnm_rl").iterdir())
