"""What the agent observes, drawn: for environments that draw no picture of themselves.

    pictures                        as they are; of a stack the newest
    Box of one axis or more         one bar per number between its bounds; grids of numbers in shades
    Discrete                        one tile per category, the present one filled; many categories: one tile
    MultiDiscrete, MultiBinary      one tile per component, in its colour, with its name or number
    Sequence                        its elements, without the padding
    Text                            the words

Names: `space.names`, or `env.observation_names`, give a category, a number or a component a name: a list, for an
observation with several entries a dict of lists by key.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from envs.door import Door
from envs.observations import ActionMask
from recall.render import palette
from recall.render.palette import Colour, font, ink_on, write_in

Picture = NDArray[np.uint8]

HUES: tuple[Colour, ...] = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
    (102, 102, 153), (153, 102, 51), (51, 153, 153), (170, 68, 85), (136, 136, 136),
)  # fmt: skip
"""Of categories in their order, repeated after the last."""
MOST_TILES = 24
"""Categories that are shown side by side; of more, the present one alone."""
MOST_PARTS = 96
"""Numbers or components of one entry that are drawn."""
MOST_ENTRIES = 8
BRIEF_ROWS = 3
"""Entries under one another in a brief picture; more stand side by side."""
SMALLEST_PICTURE = 8
GAP, HEADING = 6, 22


class Entry(NamedTuple):
    """One entry of an observation."""

    key: str
    space: Any
    """The environment's own space, where the entry is one of it."""
    value: Any
    names: Sequence[str] | None


def draw_observation(door: Door, width: int, height: int, brief: bool = False) -> Picture:
    """The observation that `door` gave last, [h, w, 3] within height x width; `brief`: without headings."""
    entries = entries_of(door)
    return _draw(entries[:MOST_ENTRIES], len(entries), width, height, brief)


def entries_of(door: Door) -> list[Entry]:
    """What there is to draw, in the order of the observation."""
    named = getattr(door.unwrapped, "observation_names", None)
    entries = []
    for leaf in door.leaves:
        own = _part(door.env.observation_space, leaf.path)
        if isinstance(own, spaces.Sequence):
            if leaf.space.shape:  # else it is the length, which its elements show
                entries.append(_elements(leaf.key, own.feature_space, leaf.take(door.seen)))
            continue
        raw = leaf.take(door.seen) if isinstance(own, spaces.Text) else None
        names = getattr(own, "names", None)
        if names is None:
            names = named.get(leaf.key) if isinstance(named, Mapping) else named
        space = leaf.space if own is None else own
        value = raw if isinstance(raw, str) else np.asarray(door.observation[leaf.key])
        entries.append(Entry(leaf.key, space, value, names if isinstance(names, Sequence) else None))
    told: Any = door.observation_space
    for key, space in told.items():
        if isinstance(space, ActionMask):
            entries.append(Entry("legal actions", space, np.asarray(door.observation[key]), None))
    return entries


def _elements(key: str, space: Any, elements: Any) -> Entry:
    """The elements of a sequence, without what it is padded with."""
    count = len(elements)
    if not count:
        return Entry(key, spaces.Text(1), "(empty)", None)
    value = np.stack([np.asarray(element) for element in elements])
    if isinstance(space, spaces.Box):
        whole: Any = spaces.Box(
            np.stack([space.low] * count), np.stack([space.high] * count), dtype=space.dtype
        )
    elif isinstance(space, spaces.MultiBinary):
        whole = spaces.MultiBinary(value.shape)
    else:
        start = np.broadcast_to(getattr(space, "start", 0), value.shape)
        value = value - start
        whole = spaces.MultiDiscrete(np.full(value.shape, int(value.max()) + 1), start=start)
    return Entry(key, whole, value, None)


def _part(space: Any, path: tuple[Hashable, ...]) -> Any:
    """The environment's own space of an entry; None inside a space that is not nested."""
    for key in path:
        parts: Any = space.spaces if isinstance(space, (spaces.Dict, spaces.Tuple)) else None
        space = None if parts is None else parts[key]
    return space


# --- Layout ----------------------------------------------------------------------


def _draw(entries: list[Entry], count: int, width: int, height: int, brief: bool) -> Picture:
    columns = math.ceil(len(entries) / BRIEF_ROWS) if brief else 1
    lines = math.ceil(len(entries) / columns)
    heading = 0 if brief else HEADING
    more = count > len(entries) and not brief
    room = (height - more * HEADING) // lines - GAP - (heading + GAP if heading else 0)
    across = (width - GAP * (columns - 1)) // columns
    rows: list[list[Image.Image]] = []
    for place, entry in enumerate(entries):
        if heading:
            rows.append([_line(_heading(entry), width, heading, palette.FAINT_INK)])
        if place % columns == 0:
            rows.append([])
        rows[-1].append(_block(entry, across, max(room, 8), brief))
    if more:
        rows.append([_line(f"and {count - len(entries)} more", width, heading, palette.FAINT_INK)])
    return _laid_out(rows, width, height)


def _laid_out(rows: list[list[Image.Image]], width: int, height: int) -> Picture:
    """Rows of blocks, one under the other, cut off at width and height."""
    heights = [max(block.height for block in row) for row in rows]
    used = max(sum(block.width for block in row) + GAP * (len(row) - 1) for row in rows)
    total = sum(heights) + GAP * (len(rows) - 1)
    canvas = Image.new("RGB", (min(used, width), min(total, height)), palette.PAPER)
    top = 0
    for row, high in zip(rows, heights, strict=True):
        left = 0
        for block in row:
            canvas.paste(block, (left, top))
            left += block.width + GAP
        top += high + GAP
    return np.asarray(canvas)


def _heading(entry: Entry) -> str:
    space, value = entry.space, entry.value
    if isinstance(value, str):
        return entry.key
    if isinstance(space, spaces.Discrete):
        return f"{entry.key}: {_name(entry, int(value))} of {int(space.n)}"
    if value.size == 1:
        return f"{entry.key}: {float(value.reshape(())):.4g}"
    size = "x".join(map(str, value.shape))
    return f"{entry.key}: {size}" + (f", the first {MOST_PARTS}" if _is_listed(entry) else "")


def _is_listed(entry: Entry) -> bool:
    return entry.value.size > MOST_PARTS and as_picture(entry.space, entry.value) is None


def _name(entry: Entry, place: int) -> str:
    """The name of category `place`, counted from 0; else the environment's own number for it."""
    if entry.names is not None and place < len(entry.names):
        return str(entry.names[place])
    start = getattr(entry.space, "start", 0)
    return str(place + int(start)) if np.ndim(start) == 0 else str(place)


def _block(entry: Entry, width: int, height: int, brief: bool) -> Image.Image:
    space, value = entry.space, entry.value
    if isinstance(value, str):
        return _words(value, width, height, brief)
    if isinstance(space, spaces.Box):
        picture = as_picture(space, value)
        if picture is not None:
            return _fit(picture, width, height)
        if value.ndim == 2 and max(value.shape) <= MOST_TILES and min(value.shape) > 1:
            return _shades(value, space, width, height)
        return _bars(entry, width, height, brief)
    if isinstance(space, spaces.Discrete):
        return _symbol(entry, width, height, brief)
    return _components(entry, width, height)


# --- Kinds -----------------------------------------------------------------------


def as_picture(space: Any, value: NDArray[Any]) -> Picture | None:
    """[h, w, 3] of a Box that holds a picture, grey or coloured, channels first or last, the newest of a stack."""
    if not isinstance(space, spaces.Box) or value.ndim not in (2, 3, 4):
        return None
    top = float(np.max(space.high))
    if (
        float(np.min(space.low)) != 0.0
        or top not in (1.0, 255.0)
        or (space.dtype != np.uint8 and top == 255.0)
    ):
        return None
    if value.ndim == 4:  # a stack of coloured pictures
        value = value[-1]
    if value.ndim == 3 and value.shape[-1] not in (1, 3, 4):
        colours = value.shape[0] == 3
        value = (
            np.moveaxis(value, 0, -1)
            if colours
            else value[-1]
            if value.shape[0] <= value.shape[-1]
            else value[..., -1]
        )
    if value.ndim == 2:
        value = value[..., None]
    if min(value.shape[:2]) < SMALLEST_PICTURE or (value.shape[-1] == 1 and max(value.shape[:2]) < 20):
        return None
    value = value[..., :3] if value.shape[-1] >= 3 else np.repeat(value[..., :1], 3, axis=-1)
    return np.ascontiguousarray((value.astype(np.float64) * (255.0 / top)).clip(0, 255).astype(np.uint8))


def _fit(picture: Picture, width: int, height: int) -> Image.Image:
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    return Image.fromarray(picture).resize(size, method)


def _fractions(value: NDArray[Any], space: spaces.Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every number and 0 as fractions of the way from its lower to its upper bound; without bounds, squashed."""
    x = value.astype(np.float64)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high) & (high > low) & (np.abs(high) < 1e6) & (np.abs(low) < 1e6)
    span = np.where(bounded, high - low, 1.0)
    base = np.where(bounded, low, 0.0)
    squashed = 0.5 + 0.5 * x / (1.0 + np.abs(x))
    at = np.where(bounded, (x - base) / span, squashed).clip(0.0, 1.0)
    zero = np.where(bounded, -base / span, 0.5).clip(0.0, 1.0)
    return at, zero


def _bars(entry: Entry, width: int, height: int, brief: bool) -> Image.Image:
    """One horizontal bar per number, from 0 to its value."""
    at, zero = (x.reshape(-1)[:MOST_PARTS] for x in _fractions(entry.value, entry.space))
    values = entry.value.reshape(-1)[:MOST_PARTS]
    columns = 1 if len(values) <= 16 else 2 if len(values) <= 48 else 4
    rows = math.ceil(len(values) / columns)
    step = max(2, min(26, height // rows))
    labelled = not brief and step >= 12
    named = labelled and entry.names is not None
    image = Image.new("RGB", (width, step * rows), palette.PAPER)
    draw = ImageDraw.Draw(image)
    across = width // columns
    for place, (x, origin, number) in enumerate(zip(at, zero, values, strict=True)):
        left, top = place // rows * across, place % rows * step
        bottom = top + step - (3 if step > 5 else 2)
        first = left + (across // 4 if named else 0)
        last = left + across - (60 if labelled else 4)
        mark = first + origin * (last - first)
        ends = sorted((first + x * (last - first), mark))
        draw.rectangle((first, top, last, bottom), fill=palette.PANEL)
        draw.rectangle((ends[0], top, max(ends[1], ends[0] + 1), bottom), fill=palette.SUPPORTS)
        draw.line((mark, top, mark, bottom), fill=palette.INK)
        if labelled:
            write_in(draw, f"{number:.3g}", (last + 5, top, left + across, bottom), 12)
        if named:
            write_in(draw, _label(entry, place), (left, top, first - 4, bottom), 12)
    return image


def _label(entry: Entry, place: int) -> str:
    return str(entry.names[place]) if entry.names is not None and place < len(entry.names) else ""


def _shades(value: NDArray[Any], space: spaces.Box, width: int, height: int) -> Image.Image:
    """A grid of numbers, dark for large ones."""
    at, _ = _fractions(value, space)
    light, dark = np.array(palette.FREE, np.float64), np.array(palette.SUPPORTS, np.float64)
    return _tiles((light + at[..., None] * (dark - light)).round().astype(np.uint8), None, width, height)


def _symbol(entry: Entry, width: int, height: int, brief: bool) -> Image.Image:
    count, present = int(entry.space.n), int(entry.value)
    hue = HUES[present % len(HUES)]
    if brief or count > MOST_TILES:
        side = min(height, 120)
        image = Image.new("RGB", (min(width, 2 * side), side), hue)
        write_in(
            ImageDraw.Draw(image),
            _name(entry, present),
            (3, 2, image.width - 4, side - 3),
            side,
            ink_on(hue),
        )
        return image
    colours = np.full((1, count, 3), palette.PANEL, np.uint8)
    colours[0, present] = hue
    return _tiles(colours, [[_name(entry, place) for place in range(count)]], width, height)


def _components(entry: Entry, width: int, height: int) -> Image.Image:
    """One tile per component: MultiDiscrete, MultiBinary, masks, and grids of them row by row."""
    grid = _grid(entry.value)
    numbers = _grid(entry.value + np.asarray(getattr(entry.space, "start", 0)))
    names = entry.names if _is_row(entry.value) else None
    binary = isinstance(entry.space, spaces.MultiBinary)
    colours = np.full((*grid.shape, 3), palette.PAPER, np.uint8)
    texts = [["" for _ in row] for row in grid]
    for (row, column), number in np.ndenumerate(grid):
        if number < 0:
            continue
        place = row * grid.shape[1] + column
        off = binary and not number
        colours[row, column] = palette.PANEL if off else HUES[0 if binary else int(number) % len(HUES)]
        named = names is not None and place < len(names)
        texts[row][column] = (
            str(names[place]) if named and names is not None else "" if binary else str(numbers[row, column])
        )
    return _tiles(colours, texts, width, height)


def _is_row(value: NDArray[Any]) -> bool:
    """Whether components have no places of their own in a grid."""
    cells = (
        value.size if value.ndim == 2 else value.shape[0] * value.shape[1] if value.ndim == 3 else math.inf
    )
    return cells > 4 * MOST_PARTS


def _grid(value: NDArray[Any]) -> NDArray[np.int64]:
    """[rows, columns] of components; -1 where there is none."""
    if not _is_row(value):
        found = value if value.ndim == 2 else value[..., 0]
        return found.astype(np.int64)
    flat = value.reshape(-1)[:MOST_PARTS]
    columns = min(len(flat), 12 if len(flat) > 16 else 8)
    grid = np.full((math.ceil(len(flat) / columns), columns), -1, np.int64)
    grid.reshape(-1)[: len(flat)] = flat
    return grid


def _tiles(colours: NDArray[np.uint8], texts: list[list[str]] | None, width: int, height: int) -> Image.Image:
    """A grid of coloured tiles with texts in them where they fit."""
    rows, columns = colours.shape[:2]
    side = max(3, min(64, width // columns, height // rows))
    wide = max(side, min(2 * side, width // columns)) if texts is not None else side
    image = Image.new("RGB", (wide * columns, side * rows), palette.EDGE)
    draw = ImageDraw.Draw(image)
    for row in range(rows):
        for column in range(columns):
            red, green, blue = (int(x) for x in colours[row, column])
            box = (column * wide, row * side, column * wide + wide - 2, row * side + side - 2)
            draw.rectangle(box, fill=(red, green, blue))
            if texts is not None and texts[row][column] and side >= 10:
                write_in(draw, texts[row][column], box, side // 2, ink_on((red, green, blue)))
    return image


def _words(text: str, width: int, height: int, brief: bool) -> Image.Image:
    size = 13 if brief else 18
    lines, line = [], ""
    for word in text.split() or ["(no words)"]:
        longer = f"{line} {word}".strip()
        if line and font(size).getlength(longer) > width - 4:
            lines.append(line)
            longer = word
        line = longer
    lines.append(line)
    lines = lines[: max(1, height // (size + 4))]
    image = Image.new("RGB", (width, (size + 4) * len(lines)), palette.PAPER)
    draw = ImageDraw.Draw(image)
    for place, words in enumerate(lines):
        draw.text((2, place * (size + 4)), words, fill=palette.INK, font=font(size))
    return image


# --- Letters ---------------------------------------------------------------------


def _line(text: str, width: int, height: int, ink: Colour) -> Image.Image:
    image = Image.new("RGB", (width, height), palette.PAPER)
    ImageDraw.Draw(image).text((0, 2), text, fill=ink, font=font(15))
    return image
