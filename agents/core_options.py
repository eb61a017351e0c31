"""Which core a command trains, with the options that `memory` declares for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from agents.options import check_bounds, json_object, option
from memory import CORE_NAMES, CoreConfig, CoreSettings
from memory.config import CORES, check_core
from memory.options import MNMOptions


@dataclass(frozen=True)
class CoreOptions(CoreSettings):
    """Which core, how large, and what its own loss weighs; configurations inherit these fields."""

    TITLE: ClassVar[str] = "memory core"

    core: str = option(
        "mnm-p", f"memory core: {', '.join(CORE_NAMES)}, or module:Class for one of your own", metavar="NAME"
    )
    core_kwargs: str = option("{}", "arguments of a core of your own as a JSON object", metavar="JSON")
    meta_coef: float = option(1.0, "MNM: weight of the memory's own loss")

    def __post_init__(self) -> None:
        check_bounds(self)
        check_core(self.core, self.core_arguments())

    def core_arguments(self) -> dict[str, Any]:
        """--core-kwargs as a dict; raises UserError if it is not a JSON object."""
        return json_object("core-kwargs", self.core_kwargs, '{"heads": 4}')

    def core_config(self) -> CoreConfig:
        """The part that `memory.make_core` needs."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(CoreSettings)}
        return CoreConfig(self.core, self.core_arguments(), **settings)

    def no_effect(self, argv: Sequence[str]) -> str:
        """A line about the options on a command line that are those of other cores; empty if there are none."""
        entry = CORES.get(self.core)
        taken = {field.name for field in dataclasses.fields(entry.options)} if entry else set()
        others = {field.name for field in dataclasses.fields(CoreSettings)} - taken
        if entry and not issubclass(entry.options, MNMOptions):
            others.add("meta_coef")
        words = (word.split("=")[0] for word in argv if word.startswith("--"))
        typed = [word for word in words if word[2:].removeprefix("no-").replace("-", "_") in others]
        return f"{', '.join(typed)}: no effect on the core {self.core}" if typed else ""
