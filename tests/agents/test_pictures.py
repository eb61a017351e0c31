"""Pictures: which observations are pictures, and what --encoder makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.config import TrainConfig
from agents.distributions import actions_for
from agents.encoder_names import BYTES
from agents.encoders import NumbersEncoder, ObservationEncoder, part_encoder
from agents.pictures import ImageEncoder, encoder_of, is_picture
from agents.run_dir import config_from_dict, config_to_dict
from envs.errors import UserError

SIZE = 8


def box(*shape: int, high: float = 255, dtype: Any = np.uint8, low: float = 0) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype=dtype)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (box(84, 84, 3), True),
        (box(4, 84, 84), True),
        (box(84, 84), True),
        (box(3, 84, 84, 3), True),
        (box(84, 84, 3, high=1, dtype=np.float32), True),
        (box(84, 84, 3, dtype=np.float32), True),
        (box(8, 8, 16), True),
        (box(7, 84, 3), False),
        (box(0, 84, 3), False),
        (box(10, 10, 3, high=1), False),
        (box(84, 84, 3, high=10), False),
        (box(84, 84, 3, low=-1, high=1, dtype=np.float32), False),
        (box(2, 2, 84, 84, 3), False),
        (box(12), False),
        (spaces.Discrete(3), False),
    ],
)
def test_the_rule_looks_at_bounds_and_shape(space: spaces.Space[Any], expected: bool) -> None:
    assert is_picture(space) is expected


@pytest.mark.parametrize(
    ("text", "space", "expected"),
    [
        ("auto", box(84, 84, 3), "small"),
        ("auto", box(4, 36, 36), "small"),
        ("auto", box(35, 84, 3), "fine"),
        ("auto", box(5), None),
        ("nature", box(84, 84, 3), "nature"),
        ("impala", box(84, 84), "impala"),
        ("flat", box(84, 84, 3), None),
        ("x=flat", box(84, 84, 3), None),
        ("other=flat", box(84, 84, 3), "small"),
        ("flat,x=auto", box(84, 84, 3), "small"),
        ("x=auto", box(84, 84, 3, low=-1, high=1, dtype=np.float32), "small"),
        ("x=fine", box(10, 10, 3, high=1), "fine"),
        (BYTES, box(84, 84, 3), "fine"),
        (BYTES, box(84, 84), None),
        (BYTES, box(84, 84, 3, high=1, dtype=np.float32), None),
    ],
)
def test_the_option_chooses_by_size_and_by_key(text: str, space: spaces.Box, expected: str | None) -> None:
    assert encoder_of(text, "x", space) == expected


@pytest.mark.parametrize("name", ["fine", "small", "nature", "impala"])
@pytest.mark.parametrize("shape", [(36, 40), (36, 40, 3), (3, 36, 40), (2, 36, 40, 3), (2, 3, 36, 40)])
def test_every_encoder_reads_every_form_over_any_leading_axes(name: str, shape: tuple[int, ...]) -> None:
    encoder = part_encoder("x", box(*shape), SIZE, encoder=name)
    assert isinstance(encoder, ImageEncoder)
    pictures = torch.randint(0, 256, (3, 2, *shape), dtype=torch.uint8)
    together = encoder(pictures)
    assert together.shape == (3, 2, SIZE)
    torch.testing.assert_close(together[2, 1], encoder(pictures[2, 1][None])[0], rtol=1e-3, atol=1e-4)


def test_the_pictures_of_a_stack_become_channels() -> None:
    last, first = box(2, 36, 40, 3), box(6, 36, 40)
    one, other = part_encoder("x", last, SIZE), part_encoder("x", first, SIZE)
    other.load_state_dict(one.state_dict())
    pictures = torch.randint(0, 256, (5, 2, 36, 40, 3), dtype=torch.uint8)
    torch.testing.assert_close(one(pictures), other(pictures.movedim(-1, 2).flatten(1, 2)))


@pytest.mark.parametrize(
    ("dtype", "high", "scale"), [(np.uint8, 255, 1), (np.float32, 255, 1), (np.float32, 1, 255)]
)
def test_values_are_divided_by_the_largest_bound(dtype: Any, high: float, scale: float) -> None:
    bytes_, other = (
        part_encoder("x", box(9, 9, 3), SIZE),
        part_encoder("x", box(9, 9, 3, high=high, dtype=dtype), SIZE),
    )
    other.load_state_dict(bytes_.state_dict())
    pictures = torch.randint(0, 256, (4, 9, 9, 3), dtype=torch.uint8)
    torch.testing.assert_close(
        other(torch.from_numpy(pictures.numpy().astype(dtype)) / scale), bytes_(pictures)
    )


def test_flat_scales_the_values_too() -> None:
    encoder = part_encoder("x", box(9, 9, 3), SIZE, encoder="flat")
    assert isinstance(encoder, NumbersEncoder)
    white = torch.full((1, 9, 9, 3), 255, dtype=torch.uint8)
    torch.testing.assert_close(encoder(white), encoder.linear(torch.ones(1, 243)))


def test_runs_stored_before_the_option_keep_their_encoder() -> None:
    stored = config_to_dict(TrainConfig())
    assert stored.pop("encoder") == "auto"
    assert config_from_dict(TrainConfig, stored, "config.json").encoder == BYTES


@pytest.mark.parametrize(
    ("text", "space", "line"),
    [
        (
            "natur",
            box(84, 84, 3),
            r"unknown encoder 'natur' \(did you mean nature\?\); --encoder takes auto, fine",
        ),
        ("x=", box(84, 84, 3), r"unknown encoder ''; --encoder takes"),
        ("nature", box(84, 4), r"--encoder nature: no observation is a picture .*KEY=nature"),
        (
            "nature",
            box(20, 84, 3),
            r"needs at least 36 x 36 pixels, observation 'x' has 20 x 84; expected auto, fine",
        ),
        ("y=flat", box(84, 84, 3), r"there is no observation 'y'.*; there are x"),
        ("x=fine", box(4), r"--encoder x=fine: Box\(0, 255, \(4,\), uint8\) cannot be a picture; expected"),
        ("x=fine", box(9, 9, high=np.inf, dtype=np.float32), r"cannot be a picture; expected bounds"),
        ("auto", box(0, 84, 3), r"observation 'x' is of size 0: Box\(.*; expected at least one pixel"),
        ("flat", box(84, 0), r"observation 'x' is of size 0"),
    ],
)
def test_what_does_not_fit_is_one_line(text: str, space: spaces.Box, line: str) -> None:
    env = spaces.Dict({"x": space})
    with pytest.raises(UserError, match=line) as error:
        ObservationEncoder(env, actions_for(spaces.Discrete(2)), SIZE, True, 1.0, encoder=text)
    assert "\n" not in str(error.value)


def test_a_name_that_is_wrong_is_refused_with_the_configuration() -> None:
    with pytest.raises(UserError, match="unknown encoder 'resnet'"):
        TrainConfig(encoder="resnet")
