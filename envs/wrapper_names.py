"""Wrappers as text, `module:Class` or `module:Class {"argument": value}`: read here, built in `envs/wrappers.py`.

Frame skip and frame stack are wrappers under options of their own.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from envs.errors import UserError

WRAPPERS = "wrappers"
"""Environment option under which the list of them travels."""
SKIP = "gymnasium.wrappers:RepeatAction"
STACK = "envs.wrappers:StackFrames"


class NamedWrapper(NamedTuple):
    """A wrapper and its arguments, not yet imported."""

    module: str
    name: str
    kwargs: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def skip_frames(count: int) -> str:
    """The wrapper that repeats every action `count` times and adds up the rewards."""
    return f'{SKIP} {{"num_repeats": {count}}}'


def stack_frames(count: int) -> str:
    """The wrapper that shows the last `count` observations, the first one repeated at the start of an episode."""
    return f'{STACK} {{"stack_size": {count}}}'


def parse_wrapper(text: Any) -> NamedWrapper:
    """`module:Class`, with a JSON object of arguments after it or without; raises UserError."""
    if not isinstance(text, str):
        raise UserError(f"a wrapper is named by a text module:Class, not {text!r}")
    name, brace, rest = text.partition("{")
    module, colon, attribute = name.strip(" =").rpartition(":")
    if not (colon and module and attribute.isidentifier()):
        raise UserError(
            f'wrapper {text!r} is not of the form module:Class or module:Class {{"argument": value}}'
        )
    try:
        kwargs = json.loads(brace + rest) if brace else {}
    except ValueError as error:
        raise UserError(f"the arguments of wrapper {module}:{attribute} are not JSON ({error})") from None
    return NamedWrapper(module, attribute, kwargs)
