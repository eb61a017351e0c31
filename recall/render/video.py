"""An animation in the format that the file's name asks for: .gif, or .mp4 where ffmpeg can be had.

GIF needs nothing but this package. MP4 goes through imageio's ffmpeg plugin, an optional install that brings
its own ffmpeg. ffmpeg writes by name and seeks in what it writes, so it gets a temporary file, whose content
is then copied: an interrupted film leaves no half-written file behind.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from agents.files import check_writable
from envs.errors import UserError
from recall.render.gif import GifWriter
from recall.render.palette import Colour

Picture = NDArray[np.uint8]
SUFFIXES = (".gif", ".mp4")
INSTALL = "python -m pip install imageio-ffmpeg"
QUALITY = 20
"""x264's constant rate factor: flat colours and text look unharmed at 20, and smaller is larger."""


class MovieWriter(Protocol):
    """What takes frames: `GifWriter` or `Mp4Writer`."""

    frames: int

    def add(self, picture: Picture, hold_s: float = 0.0) -> None: ...
    def close(self) -> None: ...


def check_movie(path: str | Path, fps: float) -> Path:
    """Refuse, before an episode is played, a film that could not be written."""
    path = check_writable(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"cannot tell the format of {path.name}: its name must end in .gif or .mp4")
    if not 0.1 <= fps <= 50:
        raise UserError(f"fps must be between 0.1 and 50 (a GIF counts time in 1/100 s), not {fps:g}")
    if suffix == ".mp4" and find_spec("imageio_ffmpeg") is None:
        raise UserError(
            f"{path.name} needs imageio's ffmpeg plugin: run `{INSTALL}`, or give a name ending in .gif"
        )
    return path


@contextmanager
def open_movie(
    path: str | Path, file: BinaryIO, fps: float, fixed: Sequence[Colour] = (), comment: str = ""
) -> Iterator[MovieWriter]:
    """A writer of the format that `path` names, into the open `file`; call its `close` when all is added."""
    if check_movie(path, fps).suffix.lower() == ".gif":
        yield GifWriter(file, fps, fixed, comment)
        return
    with tempfile.TemporaryDirectory() as folder:
        writer = Mp4Writer(file, fps, Path(folder) / "film.mp4", comment)
        try:
            yield writer
        finally:
            writer.release()


class Mp4Writer:
    """Streams pictures [height, width, 3] of one size through ffmpeg into an open binary file."""

    def __init__(self, file: BinaryIO, fps: float, scratch: Path, comment: str = "") -> None:
        self.frames = 0
        self._file, self._fps, self._scratch, self._comment = file, fps, scratch, comment
        self._ffmpeg: Any = None
        self._shape: tuple[int, ...] = ()

    def add(self, picture: Picture, hold_s: float = 0.0) -> None:
        """Append a frame, shown for 1/fps seconds and `hold_s` more (as repeated frames)."""
        if self._ffmpeg is None:
            self._open(picture)
        if picture.shape != self._shape:
            raise ValueError(f"frame of shape {picture.shape} in a film of shape {self._shape}")
        self.frames += 1
        height, width = picture.shape[:2]
        even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # H.264 asks for it
        for _ in range(1 + round(hold_s * self._fps)):
            self._ffmpeg.append_data(even)

    def close(self) -> None:
        """Finish the film and copy it into the file; the file itself stays open."""
        if self._ffmpeg is None:
            raise UserError("a film without frames cannot be written")
        self.release()
        with self._scratch.open("rb") as film:
            shutil.copyfileobj(film, self._file)

    def release(self) -> None:
        """End ffmpeg, if it runs."""
        if self._ffmpeg is not None:
            self._ffmpeg.close()

    def _open(self, picture: Picture) -> None:
        import imageio.v2 as imageio

        self._shape = picture.shape
        self._ffmpeg = imageio.get_writer(
            self._scratch,
            format="FFMPEG",
            mode="I",
            fps=self._fps,
            codec="libx264",
            quality=None,
            pixelformat="yuv420p",  # what browsers and presentation programs play
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-crf", str(QUALITY), "-preset", "medium", "-movflags", "+faststart"]
            + (["-metadata", f"comment={self._comment}"] if self._comment else []),
        )
