"""The options of a memory core, declared once for every command that trains one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from agents.options import check_at_least, option
from envs.errors import UserError
from memory import Controller, CoreConfig, CoreName, Implementation


@dataclass(frozen=True)
class CoreOptions:
    """Which core, how large, and what its own loss weighs; configurations inherit these fields."""

    core: CoreName = option("mnm-p", "memory core")
    hidden_size: int = option(128, "size of controller or recurrent layer, and of the features")
    memory_size: int = option(
        64, "MNM and hard: size d of keys and values; MNM: also hidden width of the memory"
    )
    heads: int = option(1, "MNM: heads that write and read at every step; hard: heads that read")
    controller: Controller = option(
        "lstm",
        "MNM and hard: what stands in front of the memory: lstm, gru, or feedforward, which keeps no state",
    )
    read_feedback: bool = option(
        True,
        "MNM: show the controller the value read last; without it and with the feedforward controller, what "
        "was written is the only path through time",
    )
    interaction_gain: float = option(
        1.0, "MNM: factor on the first weights of keys, values and rate; large keys bind at once"
    )
    initial_weights: Literal["learned", "fixed"] = option(
        "learned", "MNM: whether a new episode's memory is trained"
    )
    update_rate: Literal["scalar", "per-layer"] = option("scalar", "MNM: one update rate, or one per layer")
    written_layers: Literal["all", "last", "none"] = option(
        "all", "MNM, to see what writes are for: layers of the memory that they change"
    )
    read_memory: bool = option(True, "MNM, to see what reads are for: without, nothing sees the values read")
    implementation: Implementation = option(
        "auto", "MNM: compiled, fused (needs no compiler), plain (the oracle of both); auto takes the fastest"
    )
    slots: int = option(64, "hard: slots of the memory; the oldest write is forgotten")
    slot_value: Literal["input", "controller"] = option(
        "input", "hard: what a slot keeps, the encoded observation of its step or the controller's vector"
    )
    address_temperature: float = option(2.0, "hard: temperature of the address gradients at the start")
    address_temperature_final: float = option(
        0.3, "hard: the same at the end; in between it falls geometrically"
    )
    meta_coef: float = option(1.0, "MNM: weight of the memory's own loss")

    def __post_init__(self) -> None:
        check_at_least(self, 1, "hidden_size", "memory_size", "heads", "slots")
        for name in ("interaction_gain", "address_temperature", "address_temperature_final"):
            value = getattr(self, name)
            if not (value > 0.0 and math.isfinite(value)):
                raise UserError(f"--{name.replace('_', '-')} must be positive and finite, got {value}")

    def core_config(self) -> CoreConfig:
        """The part that `memory.make_core` needs."""
        return CoreConfig(
            name=self.core,
            hidden_size=self.hidden_size,
            memory_size=self.memory_size,
            heads=self.heads,
            controller=self.controller,
            read_feedback=self.read_feedback,
            interaction_gain=self.interaction_gain,
            initial_weights=self.initial_weights,
            update_rate=self.update_rate,
            written_layers=self.written_layers,
            read_memory=self.read_memory,
            implementation=self.implementation,
            slots=self.slots,
            slot_value=self.slot_value,
            address_temperature=self.address_temperature,
            address_temperature_final=self.address_temperature_final,
        )
