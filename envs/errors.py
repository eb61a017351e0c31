"""The one exception for mistakes a user can correct: its message alone is what a command prints."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what was asked for. One line: what was wrong, what was expected, the nearest choice."""


def nearest(name: str, choices: Iterable[str], limit: int = 3) -> str:
    """The `limit` choices that look most like `name`, comma-separated, ignoring case; empty if none does."""
    by_lower: dict[str, str] = {}
    for choice in choices:
        by_lower.setdefault(choice.lower(), choice)
    matches = difflib.get_close_matches(name.lower(), list(by_lower), n=limit, cutoff=0.5)
    return ", ".join(by_lower[match] for match in matches)
