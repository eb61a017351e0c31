"""The fixed layout of the Grid World maze: which cells are walls, and what every cell looks like from inside.

A square of odd side S with a wall ring; inside, a pillar on every cell whose row and column are both even,
except the centre (S//2, S//2). Cells are numbered row by row (`row * S + column`), so that a position is one
integer and the four moves are four offsets. An open room has the ring alone.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError

ACTIONS = 4
OBSERVATION_SIZE = 17
VIEW_SIZE = 9
SMALLEST_SIDE = 5


class Layout(NamedTuple):
    """Tables of one maze side S; F is the number of free cells."""

    side: int
    walls: NDArray[np.bool_]
    """[S, S] true where a cell is a wall or a pillar."""
    free: NDArray[np.int64]
    """[F] numbers of the free cells, ascending."""
    free_index: NDArray[np.int64]
    """[S * S] place of a cell in `free`; -1 for walls."""
    centre: int
    """Number of the start cell."""
    step_to: NDArray[np.int64]
    """[S * S, 4] where up, down, left and right lead; the cell itself where a wall is in the way."""
    views: NDArray[np.float32]
    """[S * S, 9] the 3x3 window around a free cell, row by row, 1 = wall; zeros for walls."""

    def distances(self) -> NDArray[np.int64]:
        """[S * S, S * S] steps of the shortest walk from cell to cell; a number above all walks at walls."""
        far = np.full((self.side**2, self.side**2), self.side**2, dtype=np.int64)
        far[self.free, self.free] = 0
        while True:
            nearer = far.copy()
            nearer[self.free] = np.minimum(far[self.free], 1 + far[self.step_to[self.free]].min(axis=1))
            if np.array_equal(nearer, far):
                return far
            far = nearer


@cache
def layout(side: int, pillars: bool = True) -> Layout:
    """The tables for one side; computed once, so nobody may write to them."""
    if isinstance(side, bool) or not isinstance(side, int) or side % 2 == 0 or side < SMALLEST_SIDE:
        raise UserError(f"the maze side must be an odd number of at least {SMALLEST_SIDE}, not {side!r}")
    rows, columns = np.indices((side, side))
    edge = (rows == 0) | (columns == 0) | (rows == side - 1) | (columns == side - 1)
    walls = edge | ((rows % 2 == 0) & (columns % 2 == 0) & pillars)
    walls[side // 2, side // 2] = False
    flat = walls.ravel()
    free = np.flatnonzero(~flat).astype(np.int64)
    free_index = np.full(side * side, -1, dtype=np.int64)
    free_index[free] = np.arange(free.size)
    step_to = np.arange(side * side)[:, None].repeat(ACTIONS, axis=1)
    views = np.zeros((side * side, VIEW_SIZE), dtype=np.float32)
    for cell in free:
        target = cell + np.array([-side, side, -1, 1])
        step_to[cell] = np.where(flat[target], cell, target)
        row, column = divmod(int(cell), side)
        views[cell] = walls[row - 1 : row + 2, column - 1 : column + 2].ravel()
    for table in (walls, free, free_index, step_to, views):
        table.flags.writeable = False
    return Layout(side, walls, free, free_index, (side // 2) * side + side // 2, step_to, views)


def other_free_cell(maze: Layout, excluded: int, rng: np.random.Generator) -> int:
    """A uniform random free cell that is not `excluded`, by exactly one draw of `rng`.

    Goal (excluded: the centre) and teleport target (excluded: the goal) are both drawn here, so that the
    single and the vectorised maze consume the same random numbers in the same order.
    """
    place = int(rng.integers(maze.free.size - 1))
    return int(maze.free[place + (place >= maze.free_index[excluded])])


def check_settings(max_steps: int, goal_reward: float, bump_penalty: float) -> None:
    """Refuse settings that would make a maze without meaning."""
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise UserError(f"max_steps of the maze must be a whole number of at least 1, not {max_steps!r}")
    if not goal_reward > 0:
        raise UserError(f"goal_reward of the maze must be greater than 0, not {goal_reward!r}")
    if not bump_penalty >= 0:
        raise UserError(
            f"bump_penalty of the maze is subtracted, so it must be 0 or more, not {bump_penalty!r}"
        )
