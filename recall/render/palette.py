"""The few colours and the letters of all pictures.

The colours are chosen so that they differ in lightness too and not only in hue. Orange (agent) is light and round or
pointed, red (goal) is dark and square: they stay apart without colour vision. Bars are blue (supports) or purple and
hollow (opposes), both far from the two markers.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from envs.render import ORANGE, RED

Colour = tuple[int, int, int]

AGENT: Colour = ORANGE
GOAL: Colour = RED
AGENT_EDGE: Colour = (90, 45, 0)
GOAL_EDGE: Colour = (90, 10, 10)

PAPER: Colour = (255, 255, 255)
PANEL: Colour = (241, 243, 246)
EDGE: Colour = (196, 202, 210)
INK: Colour = (24, 28, 34)
FAINT_INK: Colour = (92, 100, 112)
NOTICE: Colour = (60, 66, 76)
SUPPORTS: Colour = (0, 90, 170)
OPPOSES: Colour = (140, 60, 140)
GREYED: Colour = (150, 156, 164)

FREE: Colour = (250, 250, 250)
WALL: Colour = (120, 124, 130)
SEEN_FREE: Colour = (196, 222, 248)
SEEN_WALL: Colour = (84, 112, 150)
UNSEEN_FREE: Colour = (214, 216, 220)
UNSEEN_WALL: Colour = (160, 164, 170)
GRID_LINE: Colour = (226, 228, 232)
VIEW_EDGE: Colour = (30, 100, 190)

NAMED: tuple[Colour, ...] = (
    AGENT, GOAL, AGENT_EDGE, GOAL_EDGE, PAPER, PANEL, EDGE, INK, FAINT_INK, NOTICE, SUPPORTS, OPPOSES, GREYED,
    FREE, WALL, SEEN_FREE, SEEN_WALL, UNSEEN_FREE, UNSEEN_WALL, GRID_LINE, VIEW_EDGE,
)  # fmt: skip

# Ink and paper between which smoothed letters need intermediate shades.
_LETTERING = (
    (INK, PAPER),
    (INK, PANEL),
    (FAINT_INK, PAPER),
    (FAINT_INK, PANEL),
    (PAPER, NOTICE),
    (GREYED, PANEL),
)
_SHADES = 7


_GREYS = tuple(70 + 15 * step for step in range(12))


def grey_out(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture in twelve greys, a little pale; only the markers keep their colour, so positions stay readable."""
    lightness = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    greys = np.array(_GREYS, np.uint8)[np.round(lightness / 255 * (len(_GREYS) - 1)).astype(int)]
    greyed = np.repeat(greys[..., None], 3, axis=2)
    for marker in (AGENT, GOAL):
        greyed[(picture == marker).all(axis=2)] = marker
    return greyed


def fixed_colours() -> list[Colour]:
    """Every colour that the drawing itself may use, in order of importance, without repeats."""
    colours = dict.fromkeys(NAMED)
    for ink, paper in _LETTERING:
        for share in np.linspace(0, 1, _SHADES + 2)[1:-1]:
            mixed = np.round(np.array(ink) * (1 - share) + np.array(paper) * share).astype(int)
            colours[(int(mixed[0]), int(mixed[1]), int(mixed[2]))] = None
    for grey in _GREYS:
        colours[(grey, grey, grey)] = None
    return list(colours)


_NOWHERE = Image.new("L", (1, 1))


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(size=size)


def text_at(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    size: int,
    colour: Colour = INK,
    anchor: str = "la",
) -> None:
    """Write a line of text; `anchor` is that of Pillow."""
    letters, right, down = _lettering(text, size, anchor)
    if letters is not None:
        draw.bitmap((place[0] + right, place[1] + down), letters, fill=colour)


def text_width(text: str, size: int) -> int:
    """Pixels that a line of text takes."""
    return math.ceil(ImageDraw.Draw(_NOWHERE).textlength(text, font(size)))


@lru_cache(maxsize=4096)
def shortened(text: str, size: int, width: int) -> str:
    """The text, with dots for its end where a line of `width` pixels is too short for it."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(f"{text}...", size) > width:
        text = text[:-1].rstrip()
    return f"{text}..."


def write_in(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: tuple[float, float, float, float],
    size: int,
    ink: Colour = INK,
) -> None:
    """The text in the middle of a box, as large as fits; nothing where it would be too small to read."""
    left, top, right, bottom = box
    size = int(min(size, bottom - top))
    while size > 8 and font(size).getlength(text) > right - left:
        size -= 1
    if size >= 8:
        draw.text(((left + right) / 2, (top + bottom) / 2), text, fill=ink, font=font(size), anchor="mm")


def ink_on(colour: Colour) -> Colour:
    """Dark letters on light colours, light ones on dark."""
    red, green, blue = colour
    return PAPER if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else INK


@lru_cache(maxsize=4096)
def _lettering(text: str, size: int, anchor: str) -> tuple[Image.Image | None, int, int]:
    """A text as a mask, and how far from its anchor the mask's corner lies; most texts come again and
    again."""
    face = font(size)
    left, top, right, bottom = (
        round(edge) for edge in ImageDraw.Draw(_NOWHERE).textbbox((0, 0), text, face, anchor)
    )
    if right <= left or bottom <= top:
        return None, 0, 0
    letters = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(letters).text((-left, -top), text, fill=255, font=face, anchor=anchor)
    return letters, left, top
