"""The viewer: one self-contained page that shows episodes, their recalls, and who is recalled when.

The page is a template, a style sheet and a script (recall/render/viewer/) with the data of the episodes put in. It
asks for nothing from any network and needs no server; its content policy forbids both. What may be long is
kept small: pictures are WebP, each stored once; columns of numbers are float32; a score matrix is its lower
triangle in bytes, deflated. The lists of recalls, which people read numbers from, are stored exactly.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from agents.distributions import Categorical
from agents.files import atomic_file, check_writable
from envs.errors import UserError
from recall.names import check_score
from recall.record.tape import Tape
from recall.render.episode import Episode
from recall.render.scene import Picture
from recall.scores.recalls import (
    CLEARLY,
    DOUBTS,
    StepRecalls,
    Thresholds,
    bar_scale,
    recalls_of,
    stable_rows,
)
from recall.scores.registry import (
    SCORES,
    Measures,
    ReadMeasures,
    Score,
    ScoreMatrix,
    as_matrix,
    kind_of,
    measure,
    measure_reads,
    score_matrices,
    usual_score,
)

FORMAT_VERSION = 1
PICTURE_BUDGET = 5_000_000
"""Bytes for the pictures of a page; above it all are stored smaller."""
LOSSLESS_LIMIT = 12_000
"""Bytes: a picture that needs more without loss is a photograph, for which loss cannot be seen."""
TAPE_BUDGET = 2_000_000
"""Bytes for the tapes in a page; above it the page offers its own numbers only."""
SMALLER = ((0.7, 70), (0.5, 60), (0.35, 50), (0.2, 40))
"""(scale, quality) of the pictures, tried in turn until they fit their budget."""


def render_html(
    episodes: Sequence[Episode],
    path: str | Path,
    top_k: int = 5,
    scores: Sequence[Mapping[str, ScoreMatrix | ArrayLike]] | None = None,
    *,
    opens_with: str | None = None,
    thresholds: Thresholds | None = None,
    title: str = "",
) -> Path:
    """Write the viewer of recorded episodes to `path`.

    `scores`, one mapping per episode, gives each score that can be selected as a matrix [T, T] (row t, column
    s < t); without it they are those that the tape alone gives. `opens_with` names the one shown first. Where the
    tape gives none, the recalls are left out, and the page says why.
    """
    path = check_writable(path)
    if not episodes:
        raise UserError("a page needs at least one episode, not 0")
    if scores is not None and len(scores) != len(episodes):
        raise ValueError(f"scores of {len(scores)} episodes for {len(episodes)} episodes")
    core, kind = episodes[0].tape.core, kind_of(episodes[0].tape)
    caption = None
    if kind == "other" and scores is None:
        caption = f"No recalls: the tape of the core {core!r} does not give them; they replay the agent (R5)."
    page = ViewerPage(top_k, thresholds or Thresholds(), title or core, caption)
    for number, episode in enumerate(episodes):
        found: dict[str, ScoreMatrix] = {}
        measures: Measures | ReadMeasures | None = None
        if caption is None:
            known = measure(episode.tape) if kind == "written" else None
            measures = measure_reads(episode.tape) if kind == "slots" else known
            given = score_matrices(episode.tape, measures=known) if scores is None else scores[number]
            found = {
                name: as_matrix(name, given[name], episode.tape.steps)  # type: ignore[arg-type]
                for name in [*SCORES, *(set(given) - set(SCORES))]
                if name in given
            }
        page.add(episode, found, measures)
    return page.write(path, opens_with or usual_score(kind))


class ViewerPage:
    """A page to which episodes are added one by one, so that none has to be kept; `write` ends it."""

    def __init__(
        self, top_k: int, thresholds: Thresholds, title: str = "", caption: str | None = None
    ) -> None:
        if top_k < 1:
            raise UserError(f"top-k must be at least 1, not {top_k}")
        self.top_k, self.thresholds, self.title, self.caption = top_k, thresholds, title, caption
        self._pictures = _Pictures()
        self._episodes: list[dict[str, Any]] = []
        self._scores: list[str] = []
        self._tape_room = TAPE_BUDGET
        self.against: dict[str, Any] | None = None
        """Which episodes are shown beside each other, and how the two agents compare (`recall.render.against`)."""

    def add(
        self,
        episode: Episode,
        scores: Mapping[str, ScoreMatrix],
        measures: Measures | ReadMeasures | None = None,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        """Add an episode with its scores, the same ones for every episode of a page. `scales`: what fills a bar of
        each score, if not the highest of this episode."""
        if self._episodes and list(scores) != self._scores:
            raise ValueError(f"scores {list(scores)} beside episodes with {self._scores}")
        self._scores = list(scores)
        tape, policy = episode.tape, odds_of(episode.tape)
        entry: dict[str, Any] = {
            "seed": tape.seed,
            "core": tape.core,
            "start": tape.start_step,
            "steps": tape.steps,
            "terminated": episode.terminated,
            "actions": list(episode.actions),
            "likelihood": tape.likelihood,
            "words": []
            if episode.scenes is None
            else [episode.scenes.small(t).words for t in range(tape.steps)],
            "columns": {
                name: _floats(column) for name, column in _columns(episode, measures, scores).items()
            },
            "policy": _floats(policy),
            "choices": policy.shape[1],
            "cells": tape.agent_cell.tolist(),
            "frames": None,
            "seen": None,
            "scores": {},
        }
        if episode.scenes is not None:
            scenes = [episode.scenes.small(t) for t in range(tape.steps)]
            entry["frames"] = [self._pictures.add(episode.scenes[t].picture) for t in range(tape.steps)]
            entry["size"] = [scenes[0].picture.shape[1], scenes[0].picture.shape[0]]
            entry["cell_size"] = scenes[0].cell_size
            entry["markers"] = scenes[0].has_markers
            if all(scene.seen is not None for scene in scenes):
                entry["seen"] = [self._pictures.add(scene.seen) for scene in scenes if scene.seen is not None]
        for name, matrix in scores.items():
            recalls = recalls_of(tape, self.top_k, matrix, measures)
            scale = bar_scale(recalls, self.thresholds) if scales is None else scales[name]
            entry["scores"][name] = _score_entry(matrix, recalls, self.thresholds, self.top_k, scale)
        packed = _packed_tape(tape, self._tape_room)
        self._tape_room -= len(packed or b"")
        entry["tape"] = None if packed is None else _text(packed)
        self._episodes.append(entry)

    def html(self, opens_with: str = "removal") -> str:
        """The whole page."""
        if not self._episodes:
            raise UserError("a page needs at least one episode, not 0")
        if self._scores:
            check_score(opens_with)
            if opens_with not in self._scores:
                raise UserError(
                    f"the score {opens_with!r} was not computed; there are {', '.join(self._scores)}"
                )
        data = {
            "format": FORMAT_VERSION,
            "title": self.title,
            "caption": self.caption,
            "top_k": self.top_k,
            "opens_with": opens_with if self._scores else None,
            "thresholds": asdict(self.thresholds),
            "clearly": CLEARLY,
            "doubts": DOUBTS,
            "scores": {name: _words(SCORES[name]) for name in self._scores},
            "against": self.against,
            "images": self._pictures.data(),
            "episodes": self._episodes,
        }
        # "<" must not appear inside a script element: "</script>" would end it.
        text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        title = self.title.replace("&", "&amp;").replace("<", "&lt;")
        folder = files("recall") / "render" / "viewer"
        parts = {
            "/*STYLE*/": (folder / "style.css").read_text(encoding="utf-8"),
            "/*SCRIPT*/": (folder / "viewer.js").read_text(encoding="utf-8"),
            "<!--TITLE-->": title,
            "/*DATA*/": text,
        }
        template = (folder / "template.html").read_text(encoding="utf-8")
        # In one pass, so that no part is searched for the marks of another.
        return re.sub("|".join(map(re.escape, parts)), lambda mark: parts[mark.group()], template)

    def write(self, path: str | Path, opens_with: str = "removal") -> Path:
        """Write the page; a page that cannot be finished leaves no file."""
        path = check_writable(path)
        text = self.html(opens_with)
        with atomic_file(path) as file:
            file.write(text.encode())
        return path


class _Pictures:
    """Pictures as WebP, equal ones stored once."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        self._files: list[bytes] = []
        self._photographs = 0

    def add(self, picture: Picture) -> int:
        """The number under which the page finds the picture."""
        key = hashlib.blake2b(picture.tobytes() + str(picture.shape).encode(), digest_size=16).digest()
        if key not in self._known:
            self._known[key] = len(self._files)
            self._files.append(self._encode(Image.fromarray(picture)))
        return self._known[key]

    def data(self) -> list[str]:
        """All pictures in base64, made smaller if there are too many."""
        stored = self._files
        for scale, quality in SMALLER:
            if sum(map(len, stored)) <= PICTURE_BUDGET:
                break
            stored = [_shrunk(content, scale, quality) for content in self._files]
        return [_text(content) for content in stored]

    def _encode(self, image: Image.Image) -> bytes:
        if self._photographs < 3:  # photographs in a row: loss-free attempts are slow and in vain
            content = _webp(image, lossless=True, quality=50, method=3)
            if len(content) <= LOSSLESS_LIMIT:
                self._photographs = 0
                return content
            self._photographs += 1
        return _webp(image, quality=82, method=3)


def _webp(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **options)
    return buffer.getvalue()


def _shrunk(content: bytes, scale: float, quality: int) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        smaller = _webp(image.convert("RGB").resize(size), quality=quality, method=3)
    return min(content, smaller, key=len)


def _columns(
    episode: Episode, measures: Measures | ReadMeasures | None, scores: Mapping[str, ScoreMatrix]
) -> dict[str, ArrayLike]:
    """One number per step, for timeline, tiles and captions."""
    tape = episode.tape
    columns: dict[str, ArrayLike] = {
        "probability": tape.probability,
        "reward": tape.reward,
        "reward_before": tape.previous_reward,
        "return": np.cumsum(tape.reward, dtype=np.float64),
        "value": tape.value,
    }
    if measures is not None:
        columns["use_share"] = measures.use_share
        if isinstance(measures, Measures):
            columns |= {"beta": tape.written().beta, "residual": measures.residual}
        if measures.policy_effect is not None:
            columns["policy_effect"] = measures.policy_effect
    for matrix in scores.values():
        if matrix.forgotten is not None:
            columns["forgotten"] = matrix.forgotten
    return columns


def _words(score: Score) -> dict[str, str]:
    """How the page names and explains a score."""
    words = {"label": score.label, "meaning": score.meaning, "unit": score.unit}
    return words | ({"of": "steps"} if score.of_steps else {})


def odds_of(tape: Tape) -> NDArray[np.float64]:
    """[T, A] the probability of every action; [T, P] what describes the policy where an action is a vector."""
    policy = tape.policy
    found = policy.log_probs.exp() if isinstance(policy, Categorical) else policy.parameters
    odds: NDArray[np.float64] = found.numpy()
    return odds


def _score_entry(
    matrix: ScoreMatrix, recalls: Sequence[StepRecalls], thresholds: Thresholds, top_k: int, scale: float
) -> dict[str, Any]:
    """One score: the exact lists in the rows in which they are shown, and the whole matrix in bytes."""
    steps = len(recalls)
    writes = np.full((steps, top_k), -1, np.int32)
    ranks = np.zeros((steps, top_k), np.uint8)
    supports = np.ones((steps, top_k), np.uint8)
    counts = np.ones((steps, top_k), np.uint8)
    listed = np.zeros((steps, top_k), np.float32)
    for t, (step, rows) in enumerate(zip(recalls, stable_rows(recalls, top_k), strict=True)):
        for row, rank in enumerate(rows):
            if rank is not None:
                writes[t, row], ranks[t, row] = step.writes[rank], min(rank, 255)
                listed[t, row], supports[t, row] = step.scores[rank], step.supports[rank]
                counts[t, row] = step.counts(rank)
    below = np.tril_indices(steps, -1)  # row by row: (1,0), (2,0), (2,1), ...
    cells = np.round(255 * np.clip(matrix.values[below] / scale, 0.0, 1.0)).astype(np.uint8)
    return {
        "scale": scale,
        "cells": _text(zlib.compress(cells.tobytes(), 9)),
        "writes": _text(writes.astype("<i4").tobytes()),
        "ranks": _text(ranks.tobytes()),
        "supports": _text(supports.tobytes()),
        "counts": _text(counts.tobytes()),
        "listed": _floats(listed),
        "own": _floats([step.own_score for step in recalls]),
        "joint": _floats([step.joint_score for step in recalls]),
        "residual": _floats([step.residual for step in recalls]),
        "doubt": _text(bytes(DOUBTS.index(step.doubt(thresholds)) for step in recalls)),
        "signed": matrix.supports is not None,
        "judged": matrix.residual is not None,
    }


def _packed_tape(tape: Tape, room: int) -> bytes | None:
    """The tape as `Tape.save` writes it, or None if it needs more than `room` bytes."""
    if tape.memory is not None and 4 * sum(part.size for part in tape.memory.write_inputs) > 4 * room:
        return None  # hopeless, and compressing it would take long
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tape.npz"
        tape.save(file)
        content = file.read_bytes()
    return content if len(content) <= room else None


def _floats(numbers: ArrayLike) -> str:
    return _text(np.asarray(numbers, "<f4").tobytes())


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
