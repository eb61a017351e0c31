"""The options of a memory core, and the one place that turns a name into a core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from memory.core import Controller, MemoryCore
from memory.hard.core import HardCore
from memory.hard.straight_through import Annealing
from memory.mnm.cpp_backend.build import require_kernel
from memory.mnm.fast import FusedMNMCore
from memory.mnm.reference import MNMCore
from memory.recurrent.cores import GRUCore, LSTMCore, NoMemory

CoreName = Literal["none", "lstm", "gru", "mnm-g", "mnm-p", "hard"]
CORE_NAMES: tuple[str, ...] = get_args(CoreName)
Implementation = Literal["auto", "compiled", "fused", "plain"]


@dataclass(frozen=True)
class CoreConfig:
    """What `make_core` needs to know; the options below the second do not concern every core."""

    name: CoreName = "mnm-p"
    """Which core."""
    hidden_size: int = 128
    """Size n of the controller, or of the recurrent layer, and of the features."""
    memory_size: int = 64
    """MNM and hard: size d of keys and values."""
    memory_hidden: int | None = None
    """MNM: hidden width u of the memory; None means d, the only choice of mnm-p."""
    heads: int = 1
    """MNM: heads H that write and read at every step; hard: heads that read a slot each."""
    controller: Controller = "lstm"
    """MNM and hard: "feedforward" keeps no state; time passes through the memory, and with MNM through the
    value read last."""
    read_feedback: bool = True
    """MNM: whether the controller sees the value read last. If not, a feed-forward controller has no past:
    what was written is the only path through time."""
    interaction_gain: float = 1.0
    """MNM: factor on the INITIAL weights that make keys, values and rate. A write binds in proportion to the
    square of its key, and the default of 1 begins with keys near 0."""
    initial_weights: Literal["learned", "fixed"] = "learned"
    """MNM: whether phi_0, the memory of a new episode, is trained."""
    update_rate: Literal["scalar", "per-layer"] = "scalar"
    """MNM: one update rate beta per step, or one per layer of the memory."""
    written_layers: Literal["all", "last", "none"] = "all"
    """MNM: which layers of the memory a write changes. "last": a linear memory over features that training
    alone shapes, each layer with a rate of its own; "none": the memory stays phi_0."""
    read_memory: bool = True
    """MNM: whether anything sees the values read; if not, the controller's own state is all there is."""
    implementation: Implementation = "auto"
    """MNM: "compiled" is the fastest on a CPU, "fused" needs no compiler, "auto" takes the best there is;
    "plain" is the oracle under ordinary autograd, slow but twice differentiable. Same checkpoints."""
    slots: int = 64
    """Hard: slots N of the bank; the oldest write is forgotten."""
    slot_value: Literal["input", "controller"] = "input"
    """Hard: what a slot's value is computed from; "input" is the encoded observation of its own step alone."""
    address_temperature: float = 2.0
    """Hard: temperature of the address gradients when training starts; addresses do not depend on it."""
    address_temperature_final: float = 0.3
    """Hard: temperature at the end; the way there is geometric."""


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
    )
    if isinstance(core, FusedMNMCore):
        core.compiled = config.implementation != "fused"
    return core
