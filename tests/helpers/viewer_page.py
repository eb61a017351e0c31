"""For the viewer's tests: small pages, and the data in a page read back without the code that wrote it."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from recall_reference import ReferenceAgent, maze

from recall.render.episode import Episode, record_episode


def episode(seed: int = 3, steps: int = 40, **options: Any) -> Episode:
    """An episode in the maze of an agent whose writes go to the last layer alone, so that none is doubtful."""
    return record_episode(ReferenceAgent(layers=(2,), **options), maze(steps=steps), seed, core="mnm-p")


def page_data(path: Path) -> dict[str, Any]:
    """The JSON that a page carries."""
    found = re.search(
        r'<script id="data" type="application/json">(.*?)</script>', path.read_text(), re.DOTALL
    )
    assert found is not None
    return json.loads(found.group(1))


def numbers(text: str, kind: str = "<f4") -> np.ndarray:
    """A column of a page."""
    return np.frombuffer(base64.b64decode(text), kind)


def cells(text: str, steps: int) -> np.ndarray:
    """A score matrix of a page, [T, T] levels 0 to 255."""
    flat = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    matrix = np.zeros((steps, steps), np.uint8)
    place = 0
    for t in range(steps):
        matrix[t, :t] = flat[place : place + t]
        place += t
    assert place == len(flat)
    return matrix
