"""Options of the memory cores: dataclasses whose fields become a command line, config.json and docs/options.md.

They stand apart from the cores so that a command line is read, and refused, before PyTorch is loaded.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Controller = Literal["lstm", "gru", "feedforward"]
"""What computes h_t in front of a memory; the feed-forward one keeps no state."""

Implementation = Literal["auto", "compiled", "fused", "plain"]


def option(default: Any, description: str, **metadata: Any) -> Any:
    """A dataclass field that is an option of a command line.

    architecture=True: weights depend on it; at_least, most, positive: its bounds; before=x: what configurations
    stored before it existed mean; renamed=(option, {x: y}): x in configurations from before that option is y now;
    advanced=True: last in --help.
    """
    return dataclasses.field(default=default, metadata={"help": description, **metadata})


def architecture_of(kind: type[Any]) -> tuple[str, ...]:
    """Names of the fields that decide what the weights mean."""
    return tuple(f.name for f in dataclasses.fields(kind) if f.metadata.get("architecture"))


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """The option of every core; `TITLE` is the heading under which --help shows it."""

    TITLE: ClassVar[str] = "memory core"

    hidden_size: int = option(
        128,
        "size of controller or recurrent layer, and of the features",
        architecture=True,
        at_least=1,
        most=2**16,
    )


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """The options of every core with a memory behind a controller."""

    TITLE: ClassVar[str] = "memory core"

    memory_size: int = option(
        64, "MNM and hard: size d of keys and values; MNM: also hidden width of the memory", architecture=True,
        at_least=1, most=2**12,
    )  # fmt: skip
    heads: int = option(
        1,
        "MNM: heads that write and read at every step; hard: heads that read",
        architecture=True,
        at_least=1,
        most=256,
    )
    controller: Controller = option(
        "lstm",
        "MNM and hard: network in front of the memory: lstm, gru, or feedforward, which has no state",
        architecture=True,
    )


@dataclass(frozen=True, kw_only=True)
class MNMOptions(MemoryOptions, SizeOptions):
    """The options of both neural memories."""

    TITLE: ClassVar[str] = "neural memory (MNM: mnm-g, mnm-p)"

    read_feedback: bool = option(
        True,
        "feed the last value read back to the controller; without it and with the feedforward controller, "
        "the written memory is the only path through time",
        architecture=True,
    )
    interaction_window: int = option(
        0,
        "how many of the latest inputs keys, values and rate see beside the controller's output, all "
        "layer-normalized; 0: the controller's output alone, as published",
        architecture=True,
        at_least=0,
    )
    interaction_gain: float = option(
        1.0, "factor on the initial weights of keys, values and rate; large keys bind at once", positive=True
    )
    memory_hidden: int | None = option(
        None,
        "MNM: hidden width u of the memory (None: the memory size, the only choice of mnm-p)",
        architecture=True,
        at_least=1,
        advanced=True,
    )
    initial_weights: Literal["learned", "fixed"] = option(
        "learned",
        "MNM: whether the initial weights of the memory are trained",
        architecture=True,
        advanced=True,
    )
    update_rate: Literal["scalar", "per-layer"] = option(
        "scalar", "MNM: one update rate, or one per layer", architecture=True, advanced=True
    )
    written_layers: Literal["all", "last", "none"] = option(
        "all",
        "MNM: layers of the memory that writes change; last: what single writes add to a read sums up; none is for "
        "ablations",
        architecture=True,
        advanced=True,
    )
    read_memory: bool = option(
        True,
        "MNM, for ablations: without it, nothing receives the values read",
        architecture=True,
        advanced=True,
    )
    implementation: Implementation = option(
        "auto",
        "MNM: compiled, fused (needs no compiler), plain (the reference for both); auto takes the fastest",
        advanced=True,
    )


@dataclass(frozen=True, kw_only=True)
class HardOptions(MemoryOptions, SizeOptions):
    """The options of hard memory."""

    TITLE: ClassVar[str] = "hard memory (hard)"

    slots: int = option(
        64, "slots of the memory; a write replaces the oldest", architecture=True, at_least=1, most=10**6
    )
    slot_value: Literal["input", "controller"] = option(
        "input",
        "what a slot stores, the encoded observation of its step or the controller's output",
        architecture=True,
    )
    address_temperature: float = option(
        2.0, "hard: temperature of the address gradient at the start", positive=True, advanced=True
    )
    address_temperature_final: float = option(
        0.3, "hard: the same at the end; annealed geometrically", positive=True, advanced=True
    )
