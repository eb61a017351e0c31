"""Recalls without pictures of the environment: what the agent observes is drawn instead, whatever its space."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

import evaluate
import train_rl
from envs import make_shown, make_single
from recall.render.observation import HUES, as_picture, draw_observation, entries_of
from recall.render.scene import FRAME_WIDTH, MAP_SIZE, THUMBNAIL_SIZE, scene_of


class Shown(gymnasium.Env[Any, Any]):
    """Shows a fixed observation of any space, and draws nothing."""

    metadata = {"render_modes": []}  # noqa: RUF012
    action_space = spaces.Discrete(2)

    def __init__(self, space: Any, value: Any, names: Any = None) -> None:
        self.observation_space, self.value, self.left = space, value, 0
        if names is not None:
            self.observation_names = names

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 4
        return self.value, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self.value, 1.0, self.left == 0, False, {}


gymnasium.register("Shown-v0", entry_point=Shown)


def opened(space: Any, value: Any, names: Any = None) -> Any:
    env = make_single("Shown-v0", {"space": space, "value": value, "names": names})
    env.reset(seed=0)
    return env


def drawn(space: Any, value: Any, names: Any = None, brief: bool = False) -> np.ndarray:
    width, height = (FRAME_WIDTH, THUMBNAIL_SIZE) if brief else (MAP_SIZE, MAP_SIZE)
    picture = draw_observation(opened(space, value, names), width, height, brief)
    assert picture.dtype == np.uint8
    assert picture.shape[0] <= height
    assert picture.shape[1] <= width
    return picture


def colours(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}


PAIRS = {
    "numbers": (spaces.Box(-1, 1, (5,)), np.zeros(5, np.float32), np.full(5, 0.5, np.float32)),
    "unbounded numbers": (spaces.Box(-np.inf, np.inf, (2,)), np.zeros(2, np.float32), np.full(2, 90, np.float32)),
    "many numbers": (spaces.Box(0, 1, (300,)), np.zeros(300, np.float32), np.ones(300, np.float32)),
    "one number": (spaces.Box(0, 1, ()), np.float32(0.0), np.float32(1.0)),
    "a grid of numbers": (spaces.Box(0, 4, (5, 6), np.int64), np.zeros((5, 6), int), np.full((5, 6), 4)),
    "a symbol": (spaces.Discrete(4, start=7), 7, 9),
    "a symbol of many": (spaces.Discrete(500), 3, 4),
    "symbols": (spaces.MultiDiscrete([4, 4, 4]), np.array([0, 1, 2]), np.array([0, 1, 3])),
    "a grid of symbols": (spaces.MultiDiscrete(np.full((3, 4), 5)), np.zeros((3, 4), int), np.ones((3, 4), int)),
    "flags": (spaces.MultiBinary(6), np.zeros(6, np.int8), np.ones(6, np.int8)),
    "words": (spaces.Text(40, charset="abcdefghijklmnopqrstuvwxyz "), "go left", "go right"),
    "a picture": (
        spaces.Box(0, 255, (24, 20, 3), np.uint8), np.zeros((24, 20, 3), np.uint8), np.ones((24, 20, 3), np.uint8),
    ),
    "a sequence": (spaces.Sequence(spaces.Discrete(3)), (1, 2), (2, 1)),
    "parts": (
        spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Tuple([spaces.Box(0, 1, (2,)), spaces.MultiBinary(3)])}),
        {"a": 0, "b": (np.zeros(2, np.float32), np.zeros(3, np.int8))},
        {"a": 0, "b": (np.zeros(2, np.float32), np.ones(3, np.int8))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("brief", [False, True])
@pytest.mark.parametrize("kind", PAIRS)
def test_every_kind_of_observation_is_drawn_and_shows_its_value(kind: str, brief: bool) -> None:
    space, one, other = PAIRS[kind]
    first, second = drawn(space, one, brief=brief), drawn(space, other, brief=brief)
    assert first.shape != second.shape or (first != second).any()
    assert (first == drawn(space, one, brief=brief)).all()


def test_of_a_sequence_the_elements_are_drawn_as_they_came_without_padding_or_length() -> None:
    cards = spaces.Sequence(spaces.Discrete(5, start=1))
    (entry,) = entries_of(opened(cards, (1, 3, 5)))
    assert entry.value.tolist() == [0, 2, 4]
    assert entry.space.start.tolist() == [1, 1, 1]
    (empty,) = entries_of(opened(cards, ()))
    assert empty.value == "(empty)"
    assert drawn(cards, ()).size
    (points,) = entries_of(opened(spaces.Sequence(spaces.Box(-1, 1, (2,))), (np.zeros(2), np.ones(2))))
    assert points.value.tolist() == [[0, 0], [1, 1]]
    (flags,) = entries_of(opened(spaces.Sequence(spaces.MultiBinary(2)), (np.array([0, 1], np.int8),)))
    assert isinstance(flags.space, spaces.MultiBinary)


def test_a_category_has_the_environments_own_number_and_the_colour_of_its_place() -> None:
    plain, shifted = (drawn(spaces.MultiDiscrete([3], start=[start]), np.array([start])) for start in (0, 5))
    assert plain.shape == shifted.shape
    assert (plain[3, 3] == shifted[3, 3]).all()
    assert (plain != shifted).any(), "0 and 5"


def test_of_many_entries_all_are_drawn_and_none_is_cut_off() -> None:
    names = [f"k{number}" for number in range(8)]
    space = spaces.Dict({name: spaces.Discrete(3) for name in names})
    for brief in (False, True):
        plain = drawn(space, dict.fromkeys(names, 1), brief=brief)
        first, last = (
            drawn(space, dict.fromkeys(names, 1) | {name: 2}, brief=brief) for name in ("k0", "k7")
        )
        heights = [np.unique(np.argwhere((plain != other).any(-1))[:, 0]).size for other in (first, last)]
        assert heights[0] == heights[1] > 10


def test_a_bar_is_as_long_as_its_number() -> None:
    half, whole = (
        (drawn(spaces.Box(0, 1, (1,)), np.array([x], np.float32)) == (0, 90, 170)).all(axis=-1).sum()
        for x in (0.5, 1.0)
    )
    assert whole == pytest.approx(2 * half, rel=0.05)


def test_the_present_category_alone_has_its_colour() -> None:
    picture = drawn(spaces.Discrete(4), 2)
    assert [hue in colours(picture) for hue in HUES[:4]] == [False, False, True, False]


def test_names_come_from_the_space_or_the_environment() -> None:
    space: Any = spaces.Discrete(3)
    plain, named = drawn(space, 1), drawn(space, 1, ["red", "green", "blue"])
    assert (plain.shape != named.shape) or (plain != named).any()
    pair = spaces.Dict({"light": spaces.Discrete(3), "time": spaces.Discrete(2)})
    env = opened(pair, {"light": 0, "time": 1}, {"light": ["red", "green", "blue"]})
    assert [entry.names for entry in entries_of(env)] == [["red", "green", "blue"], None]
    space.names = ("a", "b", "c")
    assert entries_of(opened(space, 0))[0].names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("shape", "dtype", "high", "is_one"),
    [
        ((24, 20, 3), np.uint8, 255, True),
        ((3, 24, 20), np.uint8, 255, True),
        ((4, 84, 84), np.uint8, 255, True),
        ((4, 24, 20, 3), np.uint8, 255, True),
        ((84, 84), np.uint8, 255, True),
        ((24, 20, 3), np.float32, 1, True),
        ((5, 5), np.uint8, 255, False),
        ((24, 20, 3), np.float32, 9, False),
        ((7,), np.uint8, 255, False),
    ],
)  # fmt: skip
def test_pictures_are_told_from_numbers(
    shape: tuple[int, ...], dtype: Any, high: float, is_one: bool
) -> None:
    space = spaces.Box(0, high, shape, dtype)
    picture = as_picture(space, np.full(shape, high, dtype))
    assert (picture is not None) == is_one
    if picture is not None:
        assert picture.shape[-1] == 3
        assert (picture == 255).all()


def test_the_scene_of_an_environment_without_pictures() -> None:
    env = make_shown("Shown-v0", {"space": spaces.Discrete(4), "value": 1})
    env.reset(seed=0)
    scene = scene_of(env)
    assert (scene.seen, scene.agent, scene.has_markers) == (None, None, False)
    assert (scene.picture == draw_observation(env, MAP_SIZE, MAP_SIZE)).all()


class Painter(Shown):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, broken: bool = False) -> None:
        super().__init__(spaces.Discrete(4), 1)
        self.render_mode, self.broken = render_mode, broken

    def render(self) -> Any:
        if self.broken:
            raise RuntimeError("no display")
        return np.zeros((30, 30, 3), np.uint8)


gymnasium.register("Painter-v0", entry_point=Painter)


def test_pictures_are_taken_where_the_environment_can_draw_them() -> None:
    assert make_shown("Painter-v0").render_mode == "rgb_array"
    with pytest.warns(UserWarning, match="observations are drawn instead: .*no display"):
        env = make_shown("Painter-v0", {"broken": True})
    env.reset(seed=0)
    assert scene_of(env).picture.max() > 0


@pytest.mark.slow
def test_gif_page_tape_and_maps_of_an_environment_without_pictures(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_rl.main(
        ["--env", "mnm/RepeatPrevious-v0", "--env-kwargs", json.dumps({"lag": 1, "length": 4}), "--backend", "sync",
         "--core", "mnm-p", "--num-envs", "2", "--minibatches", "1", "--rollout-steps", "4", "--total-steps", "8",
         "--hidden-size", "8", "--embedding-size", "8", "--memory-size", "4", "--wrapper",
         f"{__name__}:Blind", "--run-dir", str(run)]
    )  # fmt: skip
    files = {
        name: tmp_path / f"out.{end}"
        for name, end in (("gif", "gif"), ("html", "html"), ("tape", "npz"), ("similarity", "png"))
    }
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert evaluate.main([str(run), "--episodes", "1", *options]) == 0
    assert all(path.stat().st_size > 500 for path in files.values())
    with Image.open(files["gif"]) as movie:
        assert movie.n_frames == 4  # type: ignore[attr-defined]


class Blind(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Takes an environment's pictures away."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.metadata = {"render_modes": []}

    @property
    def render_mode(self) -> None:
        return None
