"""What a command line may ask of a recall, by name: read, and refused, before anything is loaded that computes it."""

from __future__ import annotations

from envs.errors import UserError, nearest

SCORE_NAMES = (
    "removal", "symmetrised", "contribution", "key", "keep", "reapplied", "decision",
    "step", "held", "blank", "address",
)  # fmt: skip
"""Of every score, in the order in which they are offered; `recall/scores/registry.py` says what each of them is."""
MOST_TILES = 20
"""Recalls that fit beside a frame."""


def check_score(name: str) -> None:
    """Refuse the name of a score that does not exist."""
    if name not in SCORE_NAMES:
        likely = nearest(name, SCORE_NAMES)
        hint = f" (did you mean {likely}?)" if likely else ""
        raise UserError(f"unknown score {name!r}{hint}; the scores are {', '.join(SCORE_NAMES)}")


def steps_shown(text: str) -> tuple[int, int | None]:
    """The first step and the end, itself excluded, of "A:B"; a part left out is that of the episode."""
    first, colon, end = text.partition(":")
    if not colon or not all(
        part == "" or (part.isascii() and part.isdigit() and len(part) < 10) for part in (first, end)
    ):
        raise UserError(f'--gif-steps must be steps such as "100:160", "100:" or ":60", got {text!r}')
    found = int(first or 0), int(end) if end else None
    if found[1] is not None and found[1] <= found[0]:
        raise UserError(f"--gif-steps {text} names no step: its end must lie behind its first step")
    return found
