"""Which core a command trains, with the options that `memory` declares for it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from agents.options import check_at_least, option
from envs.errors import UserError
from memory import CoreConfig, CoreName, CoreSettings


@dataclass(frozen=True)
class CoreOptions(CoreSettings):
    """Which core, how large, and what its own loss weighs; configurations inherit these fields."""

    core: CoreName = option("mnm-p", "memory core")
    meta_coef: float = option(1.0, "MNM: weight of the memory's own loss")

    def __post_init__(self) -> None:
        check_at_least(self, 1, "hidden_size", "memory_size", "heads", "slots")
        check_at_least(self, 0, "interaction_window")
        for name in ("interaction_gain", "address_temperature", "address_temperature_final"):
            value = getattr(self, name)
            if not (value > 0.0 and math.isfinite(value)):
                raise UserError(f"--{name.replace('_', '-')} must be positive and finite, got {value}")

    def core_config(self) -> CoreConfig:
        """The part that `memory.make_core` needs."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(CoreSettings)}
        return CoreConfig(self.core, **settings)
