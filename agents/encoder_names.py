"""What --encoder may say: names of the encoders of pictures (`agents/pictures.py`), read before PyTorch is loaded."""

from __future__ import annotations

from agents.options import suggestion
from envs.errors import UserError

ENCODERS = ("auto", "fine", "small", "nature", "impala", "flat")
BYTES = "bytes"
"""What runs had that were stored before there was a choice: fine, for three-dimensional pictures of bytes alone."""


def parse_encoder(text: str) -> dict[str, str]:
    """The encoder by key of what --encoder says, that of all other pictures under ""; raises UserError."""
    found: dict[str, str] = {}
    for part in text.split(","):
        key, _, name = part.rpartition("=")
        if name not in (*ENCODERS, BYTES):
            raise UserError(
                f"unknown encoder {name!r}{suggestion(name, ENCODERS)}; --encoder takes {', '.join(ENCODERS)}, "
                "for single observations KEY=NAME,KEY=NAME"
            )
        found[key] = name
    return found
