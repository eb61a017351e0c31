"""The one exception for mistakes a user can correct: its message alone is what a command prints."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what was asked for. One line: what was wrong, what was expected, the nearest choice."""

    code = 2
    """The exit code of a command that ends with it."""


class Stopped(UserError):
    """What ended a command that was under way, in one line: nothing was wrong with what was asked for."""

    code = 1


class Diverged(UserError):
    """A number that learning made is not finite, in one line: nothing of that update was saved."""

    code = 1


class EnvFault(UserError):
    """What an environment did wrong while it was used, in one line; `trace` holds the traceback, if there is one.

    It crosses from worker processes by its arguments, and is raised again there as EnvFault(EnvFault(...)).
    """

    code = 1

    def __init__(self, message: str | EnvFault, trace: str = "") -> None:
        if isinstance(message, EnvFault):
            message, trace = message.args
        super().__init__(message, trace)
        self.trace = trace

    def __str__(self) -> str:
        return str(self.args[0])


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; for a bare `assert`, the assertion itself."""
    lines = str(error).strip().splitlines()
    if lines:
        return lines[0].split(" was raised from the environment creator")[0]
    frames = traceback.extract_tb(error.__traceback__)
    return (frames[-1].line if frames else None) or type(error).__name__


def nearest(name: str, choices: Iterable[str], limit: int = 3) -> str:
    """The `limit` choices that look most like `name`, comma-separated, ignoring case; empty if none does."""
    by_lower: dict[str, str] = {}
    for choice in choices:
        by_lower.setdefault(choice.lower(), choice)
    matches = difflib.get_close_matches(name.lower(), list(by_lower), n=limit, cutoff=0.5)
    return ", ".join(by_lower[match] for match in matches)
