"""An animation in the format that the file's name asks for: .gif, or .mp4 where ffmpeg can be had.

GIF needs nothing but this package. It is written frame by frame, with one palette for the whole file. imageio 2.38
and Pillow 13 cannot do both: imageio's current GIF plugin and Pillow's `save_all` hold all frames until the end, and
imageio's older streaming plugin gives every frame a palette of its own, so that colours flicker and the file grows.
The container is therefore written here (GIF89a is five kinds of short blocks) and Pillow compresses the pixels of each
frame. Only the part of a frame that changed is stored, and inside it the unchanged pixels are transparent. Held in
memory: the first few frames for the palette, then the previous frame. Source: CompuServe, "Graphics Interchange
Format, Version 89a", 1990.

MP4 goes through imageio's ffmpeg plugin, an optional install that brings its own ffmpeg. ffmpeg writes by name and
seeks in what it writes, so it gets a temporary file, whose content is then copied: an interrupted film leaves no
half-written file behind.
"""

from __future__ import annotations

import io
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agents.files import check_writable
from envs.errors import UserError
from recall.render.palette import Colour

Picture = NDArray[np.uint8]

SUFFIXES = (".gif", ".mp4")
INSTALL = "python -m pip install imageio-ffmpeg"
QUALITY = 20
"""x264's constant rate factor: flat colours and text look unharmed at 20, and smaller is larger."""
LOOKAHEAD = 8
"""Frames from which the adaptive part of the palette is taken."""
TRANSPARENT = 255
"""Palette index of "as in the frame before"; the other 255 are colours."""
SPREAD = (0, 85, 170, 255)
"""Levels of a coarse colour cube that keeps later, unforeseen colours recognisable."""


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


def build_palette(fixed: Sequence[Colour], pictures: Sequence[Picture]) -> NDArray[np.uint8]:
    """Up to 255 colours [n, 3]: the fixed ones, the colours of the first pictures, and a coarse cube.

    If the pictures have more colours than fit, the free places go to their medians (Pillow's median cut).
    """
    cube = [(r, g, b) for r in SPREAD for g in SPREAD for b in SPREAD]
    chosen = dict.fromkeys([*fixed, *cube])
    if len(chosen) > TRANSPARENT:
        raise ValueError(f"{len(fixed)} fixed colours leave no room in a palette of {TRANSPARENT}")
    places = TRANSPARENT - len(chosen)
    packed = np.unique(np.concatenate([np.unique(_pack(picture)) for picture in pictures]))
    missing = np.setdiff1d(packed, _pack(np.array(list(chosen), np.uint8)))
    if len(missing) > places > 0:
        pixels = np.concatenate([_pack(picture).ravel() for picture in pictures])
        pixels = pixels[np.isin(pixels, missing)]
        strip = Image.fromarray(_unpack(pixels)[None])
        reduced = strip.quantize(
            places, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
        ).getpalette()
        extra = np.array(reduced, np.uint8).reshape(-1, 3)[:places]
    else:
        extra = _unpack(missing)
    return np.unique(np.concatenate([np.array(list(chosen), np.uint8), extra]), axis=0)


class GifWriter:
    """Streams pictures [height, width, 3] of one size into an open binary file."""

    def __init__(self, file: BinaryIO, fps: float, fixed: Sequence[Colour] = (), comment: str = "") -> None:
        if not 0.1 <= fps <= 50:
            raise UserError(f"fps must be between 0.1 and 50 (a GIF counts time in 1/100 s), not {fps:g}")
        self.duration_s = 1 / fps
        self.frames = 0
        self._file = file
        self._fixed = list(fixed)
        self._comment = comment
        self._waiting: list[tuple[Picture, float]] = []
        self._palette: NDArray[np.uint8] | None = None
        self._previous: NDArray[np.uint8] | None = None

    def add(self, picture: Picture, hold_s: float = 0.0) -> None:
        """Append a frame, shown for 1/fps seconds and `hold_s` more."""
        self.frames += 1
        moment = (picture, self.duration_s + hold_s)
        if self._palette is None:
            self._waiting.append(moment)
            if len(self._waiting) == LOOKAHEAD:
                self._open()
        else:
            self._write(*moment)

    def close(self) -> None:
        """Write what is waiting and the end mark; the file itself stays open."""
        if not self.frames:
            raise UserError("a GIF without frames cannot be written")
        if self._palette is None:
            self._open()
        self._file.write(b";")

    def _open(self) -> None:
        pictures = [picture for picture, _ in self._waiting]
        self._palette = build_palette(self._fixed, pictures)
        # Colour -> palette index for all 2^24 colours, filled as colours appear: exact, one look-up a pixel.
        self._index = np.full(2**24, TRANSPARENT, np.uint8)
        self._index[_pack(self._palette)] = np.arange(len(self._palette))
        height, width = pictures[0].shape[:2]
        table = np.zeros((256, 3), np.uint8)
        table[: len(self._palette)] = self._palette
        self._table = table.tobytes()
        # Screen descriptor: global table of 2^(7+1) colours, 8 bits a channel.
        self._file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0b1111_0111, 0, 0) + self._table)
        self._file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", 0) + b"\0")  # repeat for ever
        if self._comment:
            self._file.write(b"!\xfe" + _sub_blocks(self._comment.encode("ascii", "replace")))
        for moment in self._waiting:
            self._write(*moment)
        self._waiting.clear()

    def _write(self, picture: Picture, duration_s: float) -> None:
        indices = self._quantise(picture)
        if self._previous is None:
            left = top = 0
            part = indices
        else:
            if indices.shape != self._previous.shape:
                raise ValueError(f"frame of shape {indices.shape} in a GIF of shape {self._previous.shape}")
            changed = indices != self._previous
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            # A frame equal to the one before still is a frame: one transparent pixel.
            top, bottom = (rows[0], rows[-1] + 1) if len(rows) else (0, 1)
            left, right = (columns[0], columns[-1] + 1) if len(columns) else (0, 1)
            window = (slice(top, bottom), slice(left, right))
            part = np.where(changed[window], indices[window], TRANSPARENT).astype(np.uint8)
        self._previous = indices
        # Graphic control: leave the frame in place (disposal 1), transparent index given, time in 1/100 s.
        self._file.write(
            b"!\xf9\x04" + struct.pack("<BHB", 0b101, round(duration_s * 100), TRANSPARENT) + b"\0"
        )
        height, width = part.shape
        self._file.write(b"," + struct.pack("<HHHHB", left, top, width, height, 0))
        self._file.write(_compress(part, self._table))

    def _quantise(self, picture: Picture) -> NDArray[np.uint8]:
        """[height, width] palette indices of the nearest colours."""
        assert self._palette is not None
        packed = _pack(picture)
        indices: NDArray[np.uint8] = self._index[packed]
        unknown = np.unique(packed[indices == TRANSPARENT])
        if len(unknown):
            colours = _unpack(unknown).astype(np.int32)
            for start in range(0, len(colours), 4096):
                distance = ((colours[start : start + 4096, None] - self._palette.astype(np.int32)) ** 2).sum(
                    -1
                )
                self._index[unknown[start : start + 4096]] = distance.argmin(1)
            indices = self._index[packed]
        return indices


def _compress(indices: NDArray[np.uint8], table: bytes) -> bytes:
    """The GIF image data of an index picture: code size, sub-blocks, end.

    Pillow writes a complete one-frame GIF, of which everything before and after the image data is cut away.
    """
    height, width = indices.shape
    image = Image.frombytes("P", (width, height), indices.tobytes())
    image.putpalette(table)
    buffer = io.BytesIO()
    image.save(buffer, "GIF", optimize=False, interlace=False)
    data = buffer.getvalue()
    place = 13 + _table_bytes(data[10])
    while data[place : place + 1] == b"!":  # extensions: two bytes, then sub-blocks
        place = _after_sub_blocks(data, place + 2)
    place += 10 + _table_bytes(data[place + 9])
    return data[place : _after_sub_blocks(data, place + 1)]


def _table_bytes(flags: int) -> int:
    """Size of the colour table that a descriptor's flags announce."""
    return 3 * 2 ** ((flags & 0b111) + 1) if flags & 0b1000_0000 else 0


def _after_sub_blocks(data: bytes, place: int) -> int:
    while data[place]:
        place += data[place] + 1
    return place + 1


def _sub_blocks(data: bytes) -> bytes:
    parts = [data[start : start + 255] for start in range(0, len(data), 255)]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def _pack(picture: Picture) -> NDArray[np.uint32]:
    """[..., 3] bytes -> [...] one number 0xRRGGBB."""
    wide = picture.astype(np.uint32)
    return np.asarray((wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2], np.uint32)


def _unpack(packed: NDArray[np.uint32]) -> Picture:
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1).astype(np.uint8)
