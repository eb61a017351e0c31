"""The options of a memory core, and the one place that turns a name into a core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from memory.core import Controller, MemoryCore
from memory.hard.core import HardCore
from memory.hard.straight_through import Annealing
from memory.mnm.cpp_backend.bindings import kernel_for
from memory.mnm.cpp_backend.build import KernelUnavailable, find_kernel, require_kernel
from memory.mnm.fast import FusedMNMCore
from memory.mnm.reference import MNMCore
from memory.options import option
from memory.recurrent.cores import GRUCore, LSTMCore, NoMemory

CoreName = Literal["none", "lstm", "gru", "mnm-g", "mnm-p", "hard"]
CORE_NAMES: tuple[str, ...] = get_args(CoreName)
Implementation = Literal["auto", "compiled", "fused", "plain"]


@dataclass(frozen=True, kw_only=True)
class CoreSettings:
    """The options of all cores, declared here and nowhere else; each core takes those that concern it."""

    hidden_size: int = option(
        128, "size of controller or recurrent layer, and of the features", architecture=True, most=2**16
    )
    memory_size: int = option(
        64,
        "MNM and hard: size d of keys and values; MNM: also hidden width of the memory",
        architecture=True,
        most=2**12,
    )
    heads: int = option(
        1, "MNM: heads that write and read at every step; hard: heads that read", architecture=True, most=256
    )
    controller: Controller = option(
        "lstm",
        "MNM and hard: network in front of the memory: lstm, gru, or feedforward, which has no state",
        architecture=True,
    )
    read_feedback: bool = option(
        True,
        "MNM: feed the last value read back to the controller; without it and with the feedforward controller, "
        "the written memory is the only path through time",
        architecture=True,
    )
    interaction_window: int = option(
        0,
        "MNM: how many of the latest inputs keys, values and rate see beside the controller's output, all "
        "layer-normalized; 0: the controller's output alone, as published",
        architecture=True,
    )
    interaction_gain: float = option(
        1.0, "MNM: factor on the initial weights of keys, values and rate; large keys bind at once"
    )
    initial_weights: Literal["learned", "fixed"] = option(
        "learned", "MNM: whether the initial weights of the memory are trained", architecture=True
    )
    update_rate: Literal["scalar", "per-layer"] = option(
        "scalar", "MNM: one update rate, or one per layer", architecture=True
    )
    written_layers: Literal["all", "last", "none"] = option(
        "all", "MNM, for ablations: layers of the memory that writes change", architecture=True
    )
    read_memory: bool = option(
        True, "MNM, for ablations: without it, nothing receives the values read", architecture=True
    )
    implementation: Implementation = option(
        "auto",
        "MNM: compiled, fused (needs no compiler), plain (the reference for both); auto takes the fastest",
    )
    slots: int = option(
        64, "hard: slots of the memory; a write replaces the oldest", architecture=True, most=10**6
    )
    slot_value: Literal["input", "controller"] = option(
        "input",
        "hard: what a slot stores, the encoded observation of its step or the controller's output",
        architecture=True,
    )
    address_temperature: float = option(2.0, "hard: temperature of the address gradient at the start")
    address_temperature_final: float = option(0.3, "hard: the same at the end; annealed geometrically")


@dataclass(frozen=True)
class CoreConfig(CoreSettings):
    """What `make_core` needs to know."""

    name: CoreName = "mnm-p"
    """Which core."""
    memory_hidden: int | None = None
    """MNM: hidden width u of the memory; None means d, the only choice of mnm-p."""


def implementation_in_use(core: MemoryCore) -> str | None:
    """compiled, fused or plain, and why nothing faster; None for a core with one implementation."""
    if not isinstance(core, MNMCore):
        return None
    if not isinstance(core, FusedMNMCore):
        return "plain, as asked for"
    if not core.compiled:
        return "fused, as asked for"
    if kernel_for(next(core.parameters())) is not None:
        return "compiled"
    found = find_kernel()
    return f"fused, because {found if isinstance(found, KernelUnavailable) else 'the kernel is for the CPU'}"


def make_core(config: CoreConfig, input_size: int) -> MemoryCore:
    """Build the core for inputs [.., input_size]; raises ValueError on options that cannot go together."""
    if config.name == "none":
        return NoMemory(input_size, config.hidden_size)
    if config.name == "lstm":
        return LSTMCore(input_size, config.hidden_size)
    if config.name == "gru":
        return GRUCore(input_size, config.hidden_size)
    if config.name == "hard":
        return HardCore(
            input_size,
            config.hidden_size,
            config.memory_size,
            config.slots,
            config.heads,
            config.controller,
            config.slot_value,
            Annealing(config.address_temperature, config.address_temperature_final),
        )
    if config.name not in CORE_NAMES:
        raise ValueError(f"unknown core {config.name!r}; known cores: {', '.join(CORE_NAMES)}")
    if config.implementation == "compiled":
        require_kernel()
    kind = MNMCore if config.implementation == "plain" else FusedMNMCore
    core = kind(
        input_size,
        config.hidden_size,
        config.memory_size,
        config.memory_hidden or config.memory_size,
        config.heads,
        rule="gradient" if config.name == "mnm-g" else "local",
        controller=config.controller,
        learn_initial_weights=config.initial_weights == "learned",
        rate_per_layer=config.update_rate == "per-layer",
        read_feedback=config.read_feedback,
        interaction_gain=config.interaction_gain,
        written_layers=config.written_layers,
        read_memory=config.read_memory,
        interaction_window=config.interaction_window,
    )
    if isinstance(core, FusedMNMCore):
        core.compiled = config.implementation != "fused"
    return core
