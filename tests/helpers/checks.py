"""Checks that tests of several folders make: one-line refusals, bit-wise equal checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import envs
from envs.errors import UserError


def refusal(main: object, *argv: str) -> str:
    """The one line with which a command refuses its arguments."""
    with pytest.raises(UserError) as caught:
        main(list(argv))  # type: ignore[operator]
    message = str(caught.value)
    assert "\n" not in message
    return message


def refused(match: str, *args: Any, make: Any = envs.make_vec, **kwargs: Any) -> None:
    """The call must fail with one line that contains `match`."""
    with pytest.raises(envs.UserError) as caught:
        make(*args, **kwargs)
    message = str(caught.value)
    assert match in message
    assert "\n" not in message


def same(first: Any, second: Any) -> bool:
    """Bit-wise equality of nested checkpoints."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return first == second or (first != first and second != second)
