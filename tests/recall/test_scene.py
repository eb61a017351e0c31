"""Every kind of environment is drawn with an orange agent, a red goal and a shaded field of view."""

from __future__ import annotations

from dataclasses import replace

import action_envs  # noqa: F401 (registers)
import numpy as np
import pytest
from recall_reference import Photo, ReferenceAgent, frames_of, maze

from envs import make_single
from envs.errors import UserError
from envs.render import ORANGE, object_name
from recall.render import palette
from recall.render.outputs import render_recall_gif
from recall.render.palette import text_width
from recall.render.picture import MARGIN, WORDS_SIZE, Tile, remembers
from recall.render.scene import MAP_SIZE, THUMBNAIL_SIZE, action_name, scene_of


def test_field_of_view_is_shaded():
    env = maze()
    env.reset(seed=1)
    scene = scene_of(env)
    row, column = scene.agent
    for down, right in ((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (4, 0)):
        cell = (row + down, column + right)
        place = [int((part + 0.25) * scene.cell_size) for part in cell]
        colour = tuple(int(part) for part in scene.picture[place[0], place[1]])
        wall = bool(env.unwrapped.walls[cell])
        expected = {
            (True, True): palette.SEEN_WALL,
            (True, False): palette.SEEN_FREE,
            (False, True): palette.WALL,
            (False, False): palette.FREE,
        }
        assert colour == expected[max(abs(down), abs(right)) <= 1, wall]
    assert scene.seen.shape[0] <= THUMBNAIL_SIZE
    assert scene.where.shape[0] <= THUMBNAIL_SIZE
    assert scene.picture.shape[0] <= MAP_SIZE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "goal_is_filled"),
    [("MiniGrid-Empty-8x8-v0", True), ("MiniGrid-DoorKey-6x6-v0", True), ("MiniGrid-MemoryS7-v0", False)],
)
def test_minigrid_is_repainted(env_id, goal_is_filled):
    env = make_single(env_id, render_mode="rgb_array")
    env.reset(seed=2)
    for action in (1, 2, 1, 2, 2):
        scene = scene_of(env)
        inner = env.unwrapped
        assert scene.agent == (inner.agent_pos[1], inner.agent_pos[0])
        picture, cell = scene.picture, scene.cell_size
        middle = [int((place + 0.5) * cell) for place in scene.agent]
        np.testing.assert_array_equal(picture[middle[0], middle[1]], palette.AGENT)
        assert not (picture == (255, 0, 0)).all(2).any(), "no red agent of MiniGrid's"
        goal = picture[
            scene.goal[0] * cell : (scene.goal[0] + 1) * cell,
            scene.goal[1] * cell : (scene.goal[1] + 1) * cell,
        ]
        red = (goal == palette.GOAL).all(2)
        if goal_is_filled:
            assert red.all()
            assert not (picture == (0, 255, 0)).all(2).any(), "no green goal"
        else:
            assert scene.goal == tuple(inner.success_pos[::-1])
            assert red[0].all()
            assert not red[cell // 2, cell // 2]
        for thumbnail in (scene.where, scene.seen):
            assert max(thumbnail.shape) <= THUMBNAIL_SIZE
            assert (thumbnail == palette.AGENT).all(2).any()
        env.step(action)


@pytest.mark.slow
def test_minigrid_shades_what_the_agent_sees():
    env = make_single("MiniGrid-MemoryS7-v0", render_mode="rgb_array")
    env.reset(seed=2)
    scene = scene_of(env)
    cell = scene.cell_size
    # MiniGrid's own picture lightens the same cells; compare cells without agent or goal.
    own = env.unwrapped.get_frame(highlight=True, tile_size=cell)
    differs = (own != scene.picture).any(2).reshape(7, cell, 7, cell).mean((1, 3))
    assert (differs < 0.15).sum() >= 47  # outlines of the field of view aside, all but agent and goal agree


@pytest.mark.slow
def test_minigrid_and_plain_frames_make_gifs(tmp_path):
    for name, env_id, actions in (("grid", "MiniGrid-MemoryS7-v0", 3), ("plain", "mnm/TMaze-v0", 3)):
        path = tmp_path / f"{name}.gif"
        summary = render_recall_gif(
            ReferenceAgent(actions=actions),
            lambda env_id=env_id: make_single(env_id, render_mode="rgb_array"),
            [1],
            path=path,
            top_k=3,
        )
        assert len(frames_of(path)) == summary["frames"] == summary["episodes"][0]["steps"]


@pytest.mark.slow
def test_any_frame_is_shown_as_it_is(tmp_path):
    render_recall_gif(ReferenceAgent(), lambda: Photo("rgb_array"), [0], path=tmp_path / "photo.gif")
    frames = frames_of(tmp_path / "photo.gif")
    corner = 92 + MAP_SIZE // 2, MARGIN + MAP_SIZE // 2
    assert [int(frame[corner][0]) for frame in frames] == [0, 40, 80, 120, 160, 200]
    tall = Photo("rgb_array", shape=(1000, 300, 3))
    tall.reset()
    assert scene_of(tall).picture.shape[0] == MAP_SIZE


def test_action_names():
    assert [action_name(maze(), a) for a in range(4)] == ["up", "down", "left", "right"]
    grid = make_single("MiniGrid-MemoryS7-v0", {"actions": [2, 0]}, render_mode="rgb_array")
    assert [action_name(grid, a) for a in range(2)] == ["forward", "left"]
    assert [action_name(make_single("mnm/TMaze-v0", {}), a) for a in range(3)] == [
        "forward",
        "turn up",
        "turn down",
    ]
    assert action_name(Photo(), 2) == "action 2"
    game = Photo()
    game.get_action_meanings = lambda: ["NOOP", "FIRE"]
    assert [action_name(game, a) for a in range(3)] == ["noop", "fire", "action 2"]


@pytest.mark.parametrize(
    ("kind", "vector", "words"),
    [
        ("box", [-3.0, 0.314], "-2.00, 0.31"),
        ("tuple", [0, 0.5], "1, 0.50"),
        ("dict", [1, 0, -0.125], "1, 0, -0.12"),
        ("multidiscrete", [2, 1], "2, 1"),
    ],
)
def test_a_vector_is_named_as_the_environment_takes_it_from_its_start_and_within_its_bounds(
    kind, vector, words
):
    env = make_single("Acts-v0", {"kind": kind})
    assert action_name(env, np.array(vector)) == words


def test_an_environment_that_cannot_draw_is_named():
    class Blind(Photo):
        metadata = {"render_modes": []}  # noqa: RUF012

    with pytest.raises(UserError, match="Blind cannot be drawn: it has no render mode rgb_array"):
        scene_of(Blind())


def test_words_name_the_nearest_thing_in_view():
    env = make_single("MiniGrid-MemoryS7-v0", render_mode="rgb_array")
    env.reset(seed=2)
    inner = env.unwrapped
    shown = inner.grid.get(1, inner.height // 2 - 1)
    inner.agent_pos, inner.agent_dir = (1, inner.height // 2), 3  # right below it, looking up
    assert scene_of(env).words == f"{shown.color} {shown.type} ahead"
    inner.agent_dir = 0  # looking along the hallway, with the object at its left
    assert scene_of(env).words == f"{shown.color} {shown.type} on the left"
    inner.grid.set(1, inner.height // 2 - 1, None)
    assert shown.type not in scene_of(env).words


def test_an_environment_says_what_it_shows():
    env = make_single("mnm/TMaze-v0", {"length": 4}, render_mode="rgb_array")
    _, info = env.reset(seed=0)
    said = []
    for _ in range(5):
        said.append(scene_of(env).words)
        _, _, _, _, info = env.step(0)
    cue = "the cue says up" if info["cue"] == 1 else "the cue says down"
    assert [step for step, words in enumerate(said) if words == cue] == [info["cue_step"]]
    assert said[-1] == "junction"
    for says, line in (
        (lambda: 3, "observation_words returned"),
        (lambda: 1 / 0, "observation_words raised ZeroDivisionError: division by zero"),
    ):
        env.unwrapped.observation_words = says
        with pytest.raises(UserError, match=line):
            scene_of(env)


def test_a_treasure_maze_says_where_the_agent_stands_and_names_what_lies_there():
    env = make_single("mnm/TreasureMaze-v0", {"side": 9, "tour": True, "view": 1}, render_mode="rgb_array")
    env.reset(seed=0)
    inner = env.unwrapped
    for number in inner.order[:3]:
        scene = scene_of(env)
        (row, column), cell = divmod(int(inner.spots[number]), 9), scene.cell_size
        assert scene.agent == (row, column)
        assert scene.picture.shape == (9 * cell, 9 * cell, 3)
        there = scene.picture[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
        assert (there == ORANGE).all(-1).any()
        assert scene.words == object_name(int(number))
        env.step(0)
    assert object_name(3) == "yellow triangle"


def test_what_is_remembered_fits_its_line():
    picture = np.zeros((4, 4, 3), np.uint8)
    tile = Tile(0, picture, None, 12, 31, "", 1.0, True, 0.0)
    assert remembers(tile, 400) == "remembers step 12, seen 31 steps ago"
    told = replace(tile, words="red key on the left")
    assert remembers(told, 436) == "remembers step 12: red key on the left, seen 31 steps ago"
    short = remembers(replace(tile, words="a very long sentence " * 5), 436)
    assert short.startswith("remembers step 12: a very")
    assert short.endswith("..., seen 31 steps ago")
    assert text_width(short, WORDS_SIZE) <= 436
