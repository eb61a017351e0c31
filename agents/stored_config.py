"""Configurations in config.json and in checkpoints: to plain values and back, and what a resume may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

from agents.options import own_fields_first, suggestion
from envs.errors import UserError

ConfigT = TypeVar("ConfigT")

RETIRED = ("cuda_graphs",)
"""Options that older runs stored and that no longer exist; they changed no result."""


def config_to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a configuration dataclass, for config.json and for checkpoints."""
    return {field.name: getattr(config, field.name) for field in own_fields_first(type(config))}


def config_from_dict(kind: type[ConfigT], values: dict[str, Any], source: str) -> ConfigT:
    """The configuration stored in `source`; unknown keys are refused, retired ones dropped."""
    values = {key: value for key, value in values.items() if key not in RETIRED}
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise UserError(f"{source} has the unknown option {key!r}{suggestion(key, names)}")
    return kind(**values)


def check_resume(stored: Any, wanted: Any, fixed: Iterable[str], architecture: Iterable[str] = ()) -> None:
    """Refuse to resume with an option of `fixed` changed; `architecture` names those that shape the weights."""
    for name in fixed:
        old, new = getattr(stored, name), getattr(wanted, name)
        if old != new:
            kind = "architecture option" if name in architecture else "option"
            raise UserError(
                f"--resume cannot change the {kind} --{name.replace('_', '-')} from {old!r} to {new!r}; "
                "leave it out, or start a new run in another --run-dir"
            )
