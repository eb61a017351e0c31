"""Flat-coloured drawings of grids for `render()`: one square tile per cell, no text, only NumPy."""

from __future__ import annotations

from collections.abc import Iterable

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
