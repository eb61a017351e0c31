"""The fused memory beside the plain one: settings of both, states, and what their gradients are compared by."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from memory import CoreConfig, FusedMNMCore, MNMCore, MNMState, make_core, map_state
from memory.mnm.cpp_backend.build import KernelUnavailable, find_kernel

IMPLEMENTATIONS = ["fused"] if isinstance(find_kernel(), KernelUnavailable) else ["fused", "compiled"]
"""The fast formulations that run here."""

X, N = 5, 6
VARIANTS = {
    "p": CoreConfig(name="mnm-p", memory_size=4, heads=3),
    "p one head": CoreConfig(name="mnm-p", memory_size=4, heads=1),
    "p feed-forward": CoreConfig(name="mnm-p", memory_size=3, heads=2, controller="feedforward"),
    "p GRU": CoreConfig(name="mnm-p", memory_size=4, heads=2, controller="gru"),
    "g GRU": CoreConfig(name="mnm-g", memory_size=4, memory_hidden=5, heads=1, controller="gru"),
    "p GRU without read feedback": CoreConfig(
        name="mnm-p", memory_size=3, heads=1, controller="gru", read_feedback=False
    ),
    "p without read feedback": CoreConfig(name="mnm-p", memory_size=4, heads=2, read_feedback=False),
    "g without read feedback, rate per layer": CoreConfig(
        name="mnm-g", memory_size=4, memory_hidden=7, heads=3, read_feedback=False, update_rate="per-layer"
    ),
    "g GRU without read feedback sees two inputs": CoreConfig(
        name="mnm-g",
        memory_size=4,
        memory_hidden=5,
        heads=2,
        controller="gru",
        read_feedback=False,
        interaction_window=2,
        initial_weights="fixed",
    ),
    "g, the memory alone": CoreConfig(
        name="mnm-g", memory_size=4, heads=1, controller="feedforward", read_feedback=False
    ),
    "p sees the input": CoreConfig(name="mnm-p", memory_size=4, heads=3, interaction_window=1),
    "p GRU sees two inputs": CoreConfig(
        name="mnm-p", memory_size=4, heads=1, controller="gru", interaction_window=2
    ),
    "p of several panels sees four inputs": CoreConfig(
        name="mnm-p", memory_size=37, heads=2, read_feedback=False, interaction_window=4
    ),
    "g feed-forward sees three inputs": CoreConfig(
        name="mnm-g",
        memory_size=4,
        memory_hidden=5,
        heads=2,
        controller="feedforward",
        interaction_window=3,
    ),
    "p rate per layer": CoreConfig(name="mnm-p", memory_size=4, heads=3, update_rate="per-layer"),
    "p writes its last layer alone": CoreConfig(name="mnm-p", memory_size=4, heads=2, written_layers="last"),
    "p is not read": CoreConfig(name="mnm-p", memory_size=4, heads=2, read_memory=False),
    "g writes nothing": CoreConfig(name="mnm-g", memory_size=4, heads=2, written_layers="none"),
    "p of several panels": CoreConfig(name="mnm-p", memory_size=37, heads=2),
    "p many heads": CoreConfig(name="mnm-p", memory_size=5, heads=7),
    "p fixed": CoreConfig(name="mnm-p", memory_size=4, heads=1, initial_weights="fixed"),
    "g": CoreConfig(name="mnm-g", memory_size=4, heads=3),
    "g one head": CoreConfig(name="mnm-g", memory_size=4, heads=1),
    "g of several panels": CoreConfig(name="mnm-g", memory_size=35, memory_hidden=41, heads=4),
    "g wide": CoreConfig(name="mnm-g", memory_size=4, memory_hidden=7, heads=3),
    "g narrow": CoreConfig(name="mnm-g", memory_size=5, memory_hidden=2, heads=1),
    "g wide, rate per layer, fixed": CoreConfig(
        name="mnm-g",
        memory_size=3,
        memory_hidden=5,
        heads=3,
        update_rate="per-layer",
        initial_weights="fixed",
    ),
    "g feed-forward": CoreConfig(
        name="mnm-g", memory_size=3, heads=1, controller="feedforward", update_rate="per-layer"
    ),
}
RESETS = ("none", "at the start", "all at the start", "in a row", "at the end", "at random")


def resets(kind: str, steps: int, batch: int) -> Tensor:
    is_first = torch.zeros(steps, batch, dtype=torch.bool)
    if kind == "at the start":
        is_first[0, 0] = True
    elif kind == "all at the start":
        is_first[0] = True
    elif kind == "in a row":
        is_first[steps // 2 : steps // 2 + 3, batch // 2] = True
    elif kind == "at the end":
        is_first[-1, -1] = True
    elif kind == "at random":
        is_first = torch.rand(steps, batch) < 0.3
    return is_first


def pair(config: CoreConfig, implementation: Any) -> tuple[FusedMNMCore, MNMCore]:
    """The same core twice in float64: fused or compiled, and the plain oracle."""
    torch.manual_seed(0)
    config = dataclasses.replace(config, hidden_size=N)
    plain = make_core(dataclasses.replace(config, implementation="plain"), X).double()
    fused = make_core(dataclasses.replace(config, implementation=implementation), X).double()
    assert type(plain) is MNMCore
    assert type(fused) is FusedMNMCore
    assert fused.compiled == (implementation == "compiled")
    with torch.no_grad():  # Larger weights than a fresh layer's, so that writes and slopes matter.
        for parameter in plain.parameters():
            parameter.mul_(2.0)
    fused.load_state_dict(plain.state_dict())
    return fused, plain


def lived_in(core: MNMCore, batch: int) -> MNMState:
    """A state with something in every part, asking for its gradient."""
    return map_state(lambda x: (0.3 * torch.randn_like(x)).requires_grad_(), core.initial_state(batch))


def total_of(output: Any, final: MNMState) -> Tensor:
    """A fixed random function of features, meta loss and final state, not linear in any of them."""
    generator = torch.Generator().manual_seed(7)
    total = torch.zeros(())
    for x in (output.features, output.meta_loss, *final):
        weight = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)
        total = total + (weight * (x + x.square())).sum()
    return total


def gradients(core: MNMCore, total: Tensor, xs: Tensor, state: MNMState) -> dict[str, Tensor | None]:
    named = {"xs": xs, **state._asdict(), **dict(core.named_parameters())}
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


def assert_same(mine: Tensor | None, theirs: Tensor | None, name: str, tolerance: float = 1e-10) -> None:
    mine = torch.zeros(()) if mine is None else mine.detach()
    theirs = torch.zeros(()) if theirs is None else theirs.detach()
    difference = (mine - theirs).abs().max() if max(mine.numel(), theirs.numel()) else 0.0
    scale = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
    assert difference <= tolerance * scale, f"{name}: {float(difference):.2e} at scale {scale:.1e}"
