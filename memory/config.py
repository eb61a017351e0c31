"""The registry of the memory cores, the union of their options, and the one place that builds a core.

A core is registered by the place of what builds it, so that a command line can be read, and refused, before PyTorch
is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from envs.errors import UserError, nearest
from memory.options import HardOptions, MNMOptions, SizeOptions

if TYPE_CHECKING:
    from memory.core import MemoryCore


class CoreEntry(NamedTuple):
    """A core that has a name."""

    options: type[Any]
    """Dataclass of the options that it takes."""
    place: str
    """module:name of what builds it from (input size, options); for most of them its class."""

    def build(self, input_size: int, options: Any) -> MemoryCore:
        """The core for inputs [.., input_size]."""
        module, _, name = self.place.partition(":")
        make: Callable[[int, Any], MemoryCore] = getattr(importlib.import_module(module), name)
        return make(input_size, options)


CORES: dict[str, CoreEntry] = {
    "none": CoreEntry(SizeOptions, "memory.recurrent.cores:NoMemory"),
    "lstm": CoreEntry(SizeOptions, "memory.recurrent.cores:LSTMCore"),
    "gru": CoreEntry(SizeOptions, "memory.recurrent.cores:GRUCore"),
    "mnm-g": CoreEntry(MNMOptions, "memory.mnm.fast:build_mnm_g"),
    "mnm-p": CoreEntry(MNMOptions, "memory.mnm.fast:build_mnm_p"),
    "hard": CoreEntry(HardOptions, "memory.hard.core:HardCore"),
}
"""Every core that `--core` knows by name; a new one is a line here, and its options a base of `CoreSettings`."""

CORE_NAMES = tuple(CORES)


@dataclass(frozen=True, kw_only=True)
class CoreSettings(MNMOptions, HardOptions):
    """The options of all cores; each core takes those that it declares."""


@dataclass(frozen=True)
class CoreConfig(CoreSettings):
    """What `make_core` needs to know."""

    name: str = "mnm-p"
    """Which core: one of `CORES`, or module:Class for one of your own."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of a core of your own; it takes none of the options above."""


def check_core(name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse a name that no core has, and kwargs for a core that takes options; imports nothing."""
    if ":" in name:
        return
    if name not in CORES:
        likely = nearest(name, CORES)
        hint = f" (did you mean {likely}?)" if likely else ""
        raise UserError(
            f"unknown core {name!r}{hint}; valid: {', '.join(CORES)}, or module:Class for a core of your own"
        )
    if kwargs:
        raise UserError(f"--core-kwargs is for a core of your own (module:Class); {name} has options instead")


def make_core(config: CoreConfig, input_size: int) -> MemoryCore:
    """Build the core for inputs [.., input_size]; raises ValueError on options that cannot go together."""
    check_core(config.name, config.kwargs)
    if ":" in config.name:
        from memory.user_core import make_user_core

        return make_user_core(config.name, config.kwargs, input_size)
    return CORES[config.name].build(input_size, config)
