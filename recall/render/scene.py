"""What is to be drawn of an environment at one step, in one form for every kind of environment.

Agent ORANGE, goal RED, field of view shaded. Four kinds are known:
* a Grid World maze (attributes `walls`, `agent_position`, `goal_position`; the agent sees the cells around
  it),
* MiniGrid, which would draw a red agent and a green goal itself: both are painted over,
* anything that renders to an `rgb_array`: its frame as it is, without markers (the toolkit's own draw them; a grid
  among these says where the agent stands),
* anything else: what the agent observes, drawn (`recall/render/observation.py`).
Cells are (row, column) everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from envs.door import Door
from envs.errors import UserError
from recall.render import palette
from recall.render.in_words import observation_words
from recall.render.observation import draw_observation

MAP_SIZE = 506
"""Pixels: the large picture of a scene fits a square of this side."""
THUMBNAIL_SIZE = 76
"""Pixels: the small pictures fit a square of this side."""
FRAME_WIDTH = 2 * THUMBNAIL_SIZE + 8
"""Pixels: a small picture that stands alone may be as wide as two."""
LARGEST_CELL = 56

Picture = NDArray[np.uint8]
Cell = tuple[int, int]
EASTWARD = 0  # MiniGrid's directions count clockwise from east: 0 east, 1 south, 2 west, 3 north
NORTHWARD = 3


@dataclass(frozen=True)
class Scene:
    """One moment of an environment, ready to be drawn."""

    picture: Picture
    """[h, w, 3], at most MAP_SIZE: the full map with agent, goal and field of view."""
    where: Picture
    """[h, w, 3], at most THUMBNAIL_SIZE: where the agent stood; what it could not see is dimmed."""
    seen: Picture | None
    """[h, w, 3], at most THUMBNAIL_SIZE: its field of view alone; None where the environment cannot tell."""
    agent: Cell | None
    goal: Cell | None
    cell_size: int
    """Pixels per cell of `picture`; 0 if it is not a grid."""
    has_markers: bool
    """Whether the agent is orange and the goal red in these pictures."""
    words: str = ""
    """What the agent saw, in a few words; empty where nothing can say."""


class Grid(NamedTuple):
    """The markers to be put on a grid, and its size."""

    shape: Cell
    agent: Cell
    direction: int | None
    goal: Cell | None
    """Where a goal is to be drawn; None where there is none or the picture shows it already."""
    visible: NDArray[np.bool_]
    goal_is_outline: bool = False


def scene_of(env: gymnasium.Env[Any, Any]) -> Scene:
    """The scene that `env`, wrapped or not, shows now."""
    inner = env.unwrapped
    if all(hasattr(inner, name) for name in ("walls", "agent_position", "goal_position")):
        scene = _maze_scene(inner)
    elif all(hasattr(inner, name) for name in ("grid", "agent_pos", "agent_dir", "gen_obs_grid")):
        scene = _minigrid_scene(inner)
    else:
        scene = _frame_scene(env)
    return replace(scene, words=observation_words(env))


def action_name(env: gymnasium.Env[Any, Any], action: Any) -> str:
    """A word for an action where the environment has one, else its number; a vector as the environment takes it."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, Door):
            vector, action = np.ndim(action) > 0, env.actions.decode(action)
            if vector:
                return _numbers(action)
        elif isinstance(env, gymnasium.ActionWrapper):
            action = env.action(action)
        env = env.env
    inner: Any = env
    if hasattr(inner, "walls") and hasattr(inner, "agent_position"):
        return ("up", "down", "left", "right")[action] if action < 4 else f"action {action}"
    try:
        if hasattr(inner, "action_names"):
            return str(inner.action_names[action])
        if hasattr(inner, "get_action_meanings"):  # as ALE names them: NOOP, FIRE, UPRIGHT
            return str(inner.get_action_meanings()[action]).lower()
        return str(inner.actions(action).name)
    except (AttributeError, TypeError, ValueError, LookupError):
        return f"action {action}"


def _numbers(action: Any) -> str:
    """All numbers of an action, whole ones as such: `2, -0.38`."""
    parts = (
        action.values() if isinstance(action, dict) else action if isinstance(action, tuple) else (action,)
    )
    numbers = [number for part in parts for number in np.ravel(part).tolist()]
    return ", ".join(f"{number:.2f}" if isinstance(number, float) else str(number) for number in numbers)


def _cell_size(shape: Cell, space: int) -> int:
    return max(1, min(LARGEST_CELL, space // max(shape)))


# --- Grid World maze -----------------------------------------------------------


def _maze_scene(env: Any) -> Scene:
    walls = np.asarray(env.walls, bool)
    row, column = (int(part) for part in env.agent_position)
    goal = (int(env.goal_position[0]), int(env.goal_position[1]))
    visible = np.zeros_like(walls)
    visible[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = True
    grid = Grid(walls.shape[:2], (row, column), None, goal, visible)

    cell = _cell_size(grid.shape, MAP_SIZE)
    shaded = np.where(visible[..., None], palette.SEEN_FREE, palette.FREE)
    shaded[walls] = palette.WALL
    shaded[walls & visible] = palette.SEEN_WALL
    dimmed = np.where(visible[..., None], palette.FREE, palette.UNSEEN_FREE)
    dimmed[walls] = palette.UNSEEN_WALL
    dimmed[walls & visible] = palette.SEEN_WALL

    small = _cell_size(grid.shape, THUMBNAIL_SIZE)
    # The view as the agent receives it, 3x3 also at the rim; the goal is invisible to it and so not drawn.
    padded = np.pad(walls, 1, constant_values=True)[row : row + 3, column : column + 3]
    view = np.where(padded[..., None], palette.SEEN_WALL, palette.FREE)
    view_cell = _cell_size((3, 3), THUMBNAIL_SIZE)
    return Scene(
        picture=_marked(_blocks(shaded, cell, lines=True), grid, cell),
        where=_marked(_blocks(dimmed, small, lines=False), grid, small),
        seen=_marked(
            _blocks(view, view_cell, lines=True),
            Grid((3, 3), (1, 1), None, None, np.ones((3, 3), bool)),
            view_cell,
        ),
        agent=grid.agent,
        goal=goal,
        cell_size=cell,
        has_markers=True,
    )


def _blocks(colours: NDArray[Any], cell: int, lines: bool) -> Picture:
    """[rows, columns, 3] colours -> a picture with `cell` pixels per colour."""
    picture = colours.astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
    if lines:
        picture[::cell] = palette.GRID_LINE
        picture[:, ::cell] = palette.GRID_LINE
    return picture


# --- MiniGrid ------------------------------------------------------------------


def _minigrid_scene(env: Any) -> Scene:
    size = env.agent_view_size
    view_grid, view_mask = (
        env.gen_obs_grid()
    )  # both [x, y]; the agent looks up from the middle of the last row
    agent = (int(env.agent_pos[1]), int(env.agent_pos[0]))
    goal, is_outline = _minigrid_goal(env.grid)
    success = getattr(env, "success_pos", None)
    if success is not None:
        goal, is_outline = (int(success[1]), int(success[0])), True
    visible = _minigrid_visible(env, view_mask)
    grid = Grid(visible.shape, agent, int(env.agent_dir), goal if is_outline else None, visible, is_outline)

    cell = _cell_size(grid.shape, MAP_SIZE)
    small = _cell_size(grid.shape, THUMBNAIL_SIZE)
    small_picture = _minigrid_picture(env.grid, small, None)
    unseen = ~visible.repeat(small, axis=0).repeat(small, axis=1)
    small_picture[unseen] = small_picture[unseen] // 3

    view_cell = _cell_size((size, size), THUMBNAIL_SIZE)
    seen = _minigrid_picture(view_grid, view_cell, None)
    seen[~view_mask.T.repeat(view_cell, axis=0).repeat(view_cell, axis=1)] = 0
    viewer = Grid((size, size), (size - 1, size // 2), NORTHWARD, None, view_mask.T)
    return Scene(
        picture=_marked(_minigrid_picture(env.grid, cell, visible), grid, cell),
        where=_marked(small_picture, grid._replace(goal=goal), small),  # its red was dimmed with the rest
        seen=_marked(seen, viewer, view_cell),
        agent=agent,
        goal=goal,
        cell_size=cell,
        has_markers=True,
    )


def _minigrid_goal(grid: Any) -> tuple[Cell | None, bool]:
    """The first green goal square, if there is one."""
    for index, thing in enumerate(grid.grid):
        if thing is not None and thing.type == "goal":
            return divmod(index, grid.width), False
    return None, False


def _minigrid_visible(env: Any, view_mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[row, column] true for the cells of the full map that the agent sees; `view_mask` is [x, y] of its
    view."""
    visible = np.zeros((env.grid.height, env.grid.width), bool)
    for row in range(env.grid.height):
        for column in range(env.grid.width):
            place = env.relative_coords(column, row)  # None outside the view
            visible[row, column] = place is not None and bool(view_mask[place])
    return visible


def _minigrid_picture(grid: Any, cell: int, visible: NDArray[np.bool_] | None) -> Picture:
    """The grid without an agent, its goal squares red; the visible cells lightened as MiniGrid does it."""
    picture = grid.render(
        cell, agent_pos=(-1, -1), agent_dir=None, highlight_mask=None if visible is None else visible.T
    ).copy()
    for index, thing in enumerate(grid.grid):
        if thing is not None and thing.type == "goal":
            row, column = divmod(index, grid.width)
            top, left = row * cell, column * cell
            picture[top : top + cell, left : left + cell] = palette.GOAL
    return np.asarray(picture, np.uint8)


# --- Any other environment -----------------------------------------------------


def _frame_scene(env: gymnasium.Env[Any, Any]) -> Scene:
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    modes = env.metadata.get("render_modes") or []
    if isinstance(env, Door) and env.render_mode != "rgb_array":
        return _observed_scene(env)
    if "rgb_array" not in modes:
        known = ", ".join(map(str, modes)) or "none"
        raise UserError(f"{name} cannot be drawn: it has no render mode rgb_array (its modes: {known})")
    if env.render_mode != "rgb_array":
        raise UserError(
            f"{name} cannot be drawn: it was made with render_mode={env.render_mode!r}, not 'rgb_array'"
        )
    frame = np.asarray(env.render())
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise UserError(f"{name} cannot be drawn: its frame has shape {frame.shape}, not [height, width, 3]")
    frame = frame.astype(np.uint8)
    # The toolkit's own environments draw with the same two colours.
    inner: Any = env.unwrapped
    own = type(inner).__module__.split(".")[0] == "envs"
    scene = Scene(
        picture=_fit(frame, MAP_SIZE, MAP_SIZE),
        where=_fit(frame, FRAME_WIDTH, THUMBNAIL_SIZE),
        seen=None,
        agent=None,
        goal=None,
        cell_size=0,
        has_markers=own,
    )
    if not (own and hasattr(inner, "walls") and hasattr(inner, "agent_position")):
        return scene
    rows, columns = inner.walls.shape
    cell = _cell_size((rows, columns), MAP_SIZE)
    picture = _fit(frame, columns * cell, rows * cell)
    return replace(scene, picture=picture, agent=inner.agent_position, cell_size=cell)


def _observed_scene(door: Door) -> Scene:
    """The observation in place of a picture."""
    return Scene(
        picture=draw_observation(door, MAP_SIZE, MAP_SIZE),
        where=draw_observation(door, FRAME_WIDTH, THUMBNAIL_SIZE, brief=True),
        seen=None,
        agent=None,
        goal=None,
        cell_size=0,
        has_markers=False,
    )


def _fit(frame: Picture, width: int, height: int) -> Picture:
    """The frame shrunk or enlarged, in its proportions, to fit a box; pixels stay flat where they grow."""
    scale = min(width / frame.shape[1], height / frame.shape[0])
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(frame).resize(size, method))


# --- Markers -------------------------------------------------------------------


def _marked(picture: Picture, grid: Grid, cell: int) -> Picture:
    """The picture with field of view outlined, goal red and agent orange on top."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    if cell >= 12 and not grid.visible.all():
        _outline_view(draw, grid.visible, cell)
    if grid.goal is not None:
        _draw_goal(draw, grid.goal, cell, grid.goal_is_outline)
    _draw_agent(draw, grid.agent, grid.direction, cell)
    return np.asarray(image)


def _outline_view(draw: ImageDraw.ImageDraw, visible: NDArray[np.bool_], cell: int) -> None:
    """A line wherever a visible cell borders on one that is not."""
    padded = np.pad(visible, 1)
    for row, column in np.argwhere(visible):
        top, left = int(row) * cell, int(column) * cell
        bottom, right_end = top + cell - 1, left + cell - 1
        sides = {
            (-1, 0): (left, top, right_end, top + 1),
            (1, 0): (left, bottom - 1, right_end, bottom),
            (0, -1): (left, top, left + 1, bottom),
            (0, 1): (right_end - 1, top, right_end, bottom),
        }
        for (down, right), box in sides.items():
            if not padded[row + 1 + down, column + 1 + right]:
                draw.rectangle(box, fill=palette.VIEW_EDGE)


def _draw_goal(draw: ImageDraw.ImageDraw, goal: Cell, cell: int, is_outline: bool) -> None:
    top, left = goal[0] * cell, goal[1] * cell
    margin = cell // 8 if cell >= 12 else 0
    box = (left + margin, top + margin, left + cell - 1 - margin, top + cell - 1 - margin)
    if is_outline:
        draw.rectangle(
            (left, top, left + cell - 1, top + cell - 1), outline=palette.GOAL, width=max(1, cell // 10)
        )
    else:
        draw.rectangle(box, fill=palette.GOAL, outline=palette.GOAL_EDGE if cell >= 12 else None)


def _draw_agent(draw: ImageDraw.ImageDraw, agent: Cell, direction: int | None, cell: int) -> None:
    """A disc, or a triangle that points where the agent looks; a plain square where a cell is only a few
    pixels."""
    top, left = agent[0] * cell, agent[1] * cell
    edge = palette.AGENT_EDGE
    if cell < (14 if direction is None else 8):
        # A dark rim around the cell: a few orange pixels alone are easily missed.
        draw.rectangle((left - 1, top - 1, left + cell, top + cell), fill=palette.AGENT, outline=edge)
        return
    if direction is None:
        margin = max(1, cell // 8)
        box = (left + margin, top + margin, left + cell - 1 - margin, top + cell - 1 - margin)
        draw.ellipse(box, fill=palette.AGENT, outline=edge, width=max(1, cell // 20))
        return
    # Pointing east, in units of half a cell; a quarter turn clockwise is (x, y) -> (-y, x).
    reach = 0.75 if cell >= 16 else 1.0
    corners = [(-reach, -reach), (reach, 0.0), (-reach, reach)]
    for _ in range(direction - EASTWARD):
        corners = [(-y, x) for x, y in corners]
    half = (cell - 1) / 2
    points = [(left + half + x * half, top + half + y * half) for x, y in corners]
    draw.polygon(points, fill=palette.AGENT, outline=edge)
