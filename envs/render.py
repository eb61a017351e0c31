"""Flat-coloured drawings for `render()`, grids of square tiles and islands with arrows: no text, only NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Cell = tuple[int, int]
Colour = tuple[int, int, int]
Image = NDArray[np.uint8]

ORANGE: Colour = (255, 140, 0)
RED: Colour = (214, 40, 40)
BLUE: Colour = (58, 110, 200)
WALL: Colour = (110, 110, 110)
FREE: Colour = (245, 245, 245)
LINE: Colour = (225, 225, 225)
VIEW: Colour = (90, 150, 255)
VIEW_STRENGTH = 0.35


def draw_tiles(colours: NDArray[np.uint8], tile: int) -> Image:
    """A picture [rows * tile, columns * tile, 3] of colours [rows, columns, 3], with thin grid lines."""
    image = colours.repeat(tile, axis=0).repeat(tile, axis=1)
    image[::tile] = LINE
    image[:, ::tile] = LINE
    return image


def draw_square(image: Image, cell: Cell, colour: Colour, tile: int, inset: float = 0.15) -> None:
    """Fill the middle of one tile in place; `inset` is the margin as a fraction of the tile."""
    margin = max(1, round(tile * inset))
    top, left = cell[0] * tile, cell[1] * tile
    image[top + margin : top + tile - margin + 1, left + margin : left + tile - margin + 1] = colour


def draw_maze(
    walls: NDArray[np.bool_],
    agent: Cell,
    goal: Cell | None = None,
    view: Iterable[Cell] = (),
    tile: int = 24,
) -> Image:
    """The whole maze: walls grey, the cells in `view` shaded blue, goal red, agent orange."""
    colours = np.where(walls[..., None], np.array(WALL), np.array(FREE)).astype(np.float64)
    for row, column in view:
        colours[row, column] += VIEW_STRENGTH * (np.array(VIEW) - colours[row, column])
    image = draw_tiles(colours.round().astype(np.uint8), tile)
    if goal is not None:
        draw_square(image, goal, RED, tile)
    draw_square(image, agent, ORANGE, tile)
    return image


OBJECT_COLOURS: tuple[Colour, ...] = (
    (38, 140, 72), (128, 62, 190), (0, 150, 160), (230, 190, 0),
    (150, 90, 40), (220, 90, 190), (30, 60, 140), (60, 60, 60),
)  # fmt: skip
COLOUR_NAMES = ("green", "purple", "turquoise", "yellow", "brown", "pink", "blue", "dark grey")
SHAPE_NAMES = ("circle", "square", "diamond", "triangle", "cross")


def colour_name(number: int) -> str:
    """The colour of object or transport `number`."""
    return COLOUR_NAMES[number % len(COLOUR_NAMES)]


def object_name(number: int) -> str:
    """What object `number` looks like where it is drawn."""
    return f"{colour_name(number)} {SHAPE_NAMES[number % len(SHAPE_NAMES)]}"


def draw_treasures(
    walls: NDArray[np.bool_],
    agent: Cell,
    view: Iterable[Cell],
    objects: Sequence[Cell],
    wanted: int | None,
    tile: int = 24,
) -> Image:
    """A maze with objects of different colour and shape; the cell of the wanted one is red."""
    image = draw_maze(walls, agent, None, view, tile)
    if wanted is not None:
        draw_square(image, objects[wanted], RED, tile, inset=0.0)
    for number, (row, column) in enumerate(objects):
        shape = _object_shape(number, tile - 1)
        place = image[row * tile + 1 : (row + 1) * tile, column * tile + 1 : (column + 1) * tile]
        place[shape] = OBJECT_COLOURS[number % len(OBJECT_COLOURS)]
    return image


def _object_shape(number: int, size: int) -> NDArray[np.bool_]:
    """[size, size] true where object `number` is drawn: five shapes, each in every colour."""
    down, right = (np.indices((size, size)) - (size - 1) / 2) / (size / 2)
    shapes = (
        down**2 + right**2 <= 0.3,
        (np.abs(down) <= 0.48) & (np.abs(right) <= 0.48),
        np.abs(down) + np.abs(right) <= 0.68,
        (down <= 0.5) & (2 * np.abs(right) <= down + 0.65),
        (np.minimum(np.abs(down), np.abs(right)) <= 0.2) & (np.maximum(np.abs(down), np.abs(right)) <= 0.62),
    )
    return np.asarray(shapes[number % len(shapes)])


SEA: Colour = (222, 236, 246)
DARK: Colour = (70, 70, 78)


def draw_islands(
    names: int, ways: Sequence[tuple[int, int, int]], agent: int, target: int, size: int = 264
) -> Image:
    """Islands on a circle, the target red, the agent orange on its island; ways (from, to, transport) as arrows.

    Every name has its place on the circle, which stays empty where no way begins; names are counted from 1. The
    colour of an arrow is its transport's.
    """
    image = np.full((size, size, 3), SEA, dtype=np.uint8)
    angles = 2 * np.pi * np.arange(names) / names
    centres = size / 2 + 0.37 * size * np.stack([-np.cos(angles), np.sin(angles)], axis=1)
    radius = min(0.09, 0.75 / names) * size
    for start, end, by in ways:
        _draw_arrow(image, centres[start], centres[end], radius, OBJECT_COLOURS[by % len(OBJECT_COLOURS)], by)
    inhabited = {start for start, _, _ in ways}
    for number in inhabited:
        _draw_disc(image, centres[number], radius, WALL)
        _draw_disc(image, centres[number], radius - 2, RED if number == target else FREE)
    _draw_disc(image, centres[agent], 0.65 * radius, ORANGE)
    for number in inhabited:
        _draw_number(image, centres[number], number + 1, max(1, int(radius / 9)))
    return image


def _draw_disc(image: Image, centre: NDArray[np.float64], radius: float, colour: Colour) -> None:
    rows, columns = np.indices(image.shape[:2])
    image[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2] = colour


DIGITS = ("75557", "26227", "71747", "71317", "55711", "74717", "74757", "71222", "75757", "75717")
"""Five rows of three pixels for every digit: a row is the octal digit whose bits are its pixels."""


def _draw_number(image: Image, centre: NDArray[np.float64], number: int, scale: int) -> None:
    digits = [
        [[int(row) >> bit & 1 for bit in (2, 1, 0)] + [0] for row in DIGITS[int(d)]] for d in str(number)
    ]
    pixels = np.concatenate(digits, axis=1)[:, :-1].repeat(scale, axis=0).repeat(scale, axis=1)
    top, left = (int(c - n / 2) for c, n in zip(centre, pixels.shape, strict=True))
    image[top : top + pixels.shape[0], left : left + pixels.shape[1]][pixels == 1] = DARK


def _draw_arrow(
    image: Image,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    radius: float,
    colour: Colour,
    lane: int,
) -> None:
    """A bowed line with a head at its end; bows to the right of its direction, more so for a higher lane."""
    along = (end - start) / np.linalg.norm(end - start)
    aside = np.array([along[1], -along[0]])
    start, end = start + radius * along, end - (radius + 2) * along
    middle = (start + end) / 2 + aside * radius * (0.6 + 0.5 * lane)
    t = np.linspace(0.0, 1.0, 4 * image.shape[0])[:, None]
    line = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    way = (line[-1] - line[-12]) / np.linalg.norm(line[-1] - line[-12])
    for back in range(int(0.5 * radius)):
        across = np.linspace(-0.5 * back, 0.5 * back, 3 * back + 1)[:, None]
        _dot(image, line[-1] - back * way + across * np.array([way[1], -way[0]]), colour)
    _dot(image, line, colour)


def _dot(image: Image, points: NDArray[np.float64], colour: Colour) -> None:
    """Paint 2 x 2 pixels at every point (row, column) inside the picture."""
    rows, columns = np.clip(points.round().astype(int), 0, image.shape[0] - 2).T
    for down in (0, 1):
        for right in (0, 1):
            image[rows + down, columns + right] = colour


LIT: Colour = (255, 214, 64)


def draw_doors(
    doors: int, before: tuple[int, int, int] | None, now: tuple[int, int] | None, tile: int = 24
) -> Image:
    """Two rooms with a sign above a wall of doors: the one before (left, faded) and the present one.

    `before` is (sign, right door, chosen door): the right door is lit yellow, the agent stands at its choice.
    `now` is (sign, right door): the right door is red, the agent waits in the middle. A sign is 16 bits.
    """
    width = max(2 * doors + 1, 7)
    rooms = []
    for sign, right, chosen in (before or (None, -1, -1), (*now, -1) if now else (None, -1, -1)):
        colours = np.full((9, width, 3), WALL, dtype=np.uint8)
        colours[7:8, 1:-1] = FREE
        image = draw_tiles(colours, tile)
        first = (width - 2 * doors + 1) // 2
        if sign is not None:
            for door in range(doors):
                colour = DARK if door != right else (LIT if chosen >= 0 else RED)
                draw_square(image, (6, first + 2 * door), colour, tile, inset=0.05)
            _draw_sign(image, sign, width, tile)
            column = first + 2 * chosen if chosen >= 0 else width // 2
            draw_square(image, (7, column), ORANGE, tile)
        rooms.append(image)
    faded = (0.65 * rooms[0] + 0.35 * 255).astype(np.uint8) if before else rooms[0]
    gap = np.full((faded.shape[0], tile // 2, 3), 255, dtype=np.uint8)
    return np.concatenate([faded, gap, rooms[1]], axis=1)


def _draw_sign(image: Image, sign: int, width: int, tile: int) -> None:
    """A white board with the sign's 16 bits as a pattern of 4 x 4 blue squares."""
    left = (width * tile) // 2 - 2 * tile
    image[tile - 4 : 5 * tile + 5, left - 4 : left + 4 * tile + 5] = FREE
    for bit in range(16):
        if sign >> bit & 1:
            top, start = tile + bit // 4 * tile, left + bit % 4 * tile
            image[top : top + tile, start : start + tile] = BLUE
