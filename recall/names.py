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
