"""How an option is declared: a dataclass field with its help text, from which command lines are made."""

from __future__ import annotations

import dataclasses
from typing import Any


def option(default: Any, description: str, **metadata: Any) -> Any:
    """A dataclass field that is an option of a command line; `architecture=True` if weights depend on it.

    `before=x`: what configurations stored before it existed mean; `most`: the largest number that makes sense, where
    it is not that of all options.
    """
    return dataclasses.field(default=default, metadata={"help": description, **metadata})


def architecture_of(kind: type[Any]) -> tuple[str, ...]:
    """Names of the fields that decide what the weights mean."""
    return tuple(f.name for f in dataclasses.fields(kind) if f.metadata.get("architecture"))
