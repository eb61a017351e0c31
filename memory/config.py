"""The registry of the memory cores, the union of their options, and the one place that builds a core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from envs.errors import UserError, nearest
from memory.core import MemoryCore, SizeOptions
from memory.hard.core import HardCore, HardOptions
from memory.mnm.cpp_backend.bindings import kernel_for
from memory.mnm.cpp_backend.build import KernelUnavailable, find_kernel
from memory.mnm.fast import FusedMNMCore, build_mnm
from memory.mnm.reference import MNMCore, MNMOptions
from memory.recurrent.cores import GRUCore, LSTMCore, NoMemory
from memory.user_core import make_user_core


class CoreEntry(NamedTuple):
    """A core that has a name."""

    options: type[Any]
    """Dataclass of the options that it takes."""
    build: Callable[[int, Any], MemoryCore]
    """(input size, options) -> the core; for most of them its class."""


CORES: dict[str, CoreEntry] = {
    "none": CoreEntry(SizeOptions, NoMemory),
    "lstm": CoreEntry(SizeOptions, LSTMCore),
    "gru": CoreEntry(SizeOptions, GRUCore),
    "mnm-g": CoreEntry(MNMOptions, partial(build_mnm, "gradient")),
    "mnm-p": CoreEntry(MNMOptions, partial(build_mnm, "local")),
    "hard": CoreEntry(HardOptions, HardCore),
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
    check_core(config.name, config.kwargs)
    if ":" in config.name:
        return make_user_core(config.name, config.kwargs, input_size)
    return CORES[config.name].build(input_size, config)
