"""Encoders: each space becomes what it should, over any leading axes; categories never enter as raw numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.distributions import actions_for
from agents.encoders import (
    CategoriesEncoder,
    NumbersEncoder,
    ObservationEncoder,
    WordsEncoder,
    part_encoder,
)
from agents.pictures import ImageEncoder
from envs import make_single
from envs.errors import UserError
from envs.observations import Tokens

SIZE = 8


def test_categories_equal_a_linear_map_of_the_one_hot_code() -> None:
    counts = np.array([[3, 2], [4, 5]])
    encoder = CategoriesEncoder(counts, np.zeros_like(counts), SIZE)
    values = torch.stack([torch.randint(0, int(n), (6, 7)) for n in counts.reshape(-1)], dim=-1).view(
        6, 7, 2, 2
    )
    flat = values.view(6, 7, 4)
    one_hot = torch.cat(
        [torch.nn.functional.one_hot(flat[..., i], int(n)) for i, n in enumerate(counts.reshape(-1))], dim=-1
    )
    expected = one_hot.float() @ encoder.table.weight + encoder.bias
    torch.testing.assert_close(encoder(values), expected)


def test_a_discrete_space_may_start_anywhere() -> None:
    encoder = part_encoder("x", spaces.Discrete(3, start=5), SIZE)
    rows = encoder(torch.tensor([5, 6, 7]))
    assert rows.shape == (3, SIZE)
    assert len({tuple(row.tolist()) for row in rows}) == 3


@pytest.mark.parametrize("shape", [(), (1,), (1, 3), (3, 1)])
def test_axes_of_size_one_are_not_taken_for_batch_axes(shape: tuple[int, ...]) -> None:
    space = spaces.MultiDiscrete(np.full(shape, 5)) if shape else spaces.Discrete(5)
    encoder = part_encoder("x", space, SIZE)
    assert encoder(torch.randint(0, 5, (4, *shape))).shape == (4, SIZE)
    assert encoder(torch.randint(0, 5, (6, 4, *shape))).shape == (6, 4, SIZE)


def test_a_bound_that_is_only_that_of_the_type_does_not_scale_the_observation_away() -> None:
    limits = np.iinfo(np.int64)
    encoder = part_encoder("x", spaces.Box(limits.min, limits.max, (2,), dtype=np.int64), SIZE)
    x = torch.tensor([[1, -2]])
    torch.testing.assert_close(encoder(x), encoder.linear(x.float()))


def test_numbers_are_flattened_and_bytes_scaled() -> None:
    floats = part_encoder("x", spaces.Box(-1, 1, (2, 3), dtype=np.float32), SIZE)
    assert isinstance(floats, NumbersEncoder)
    x = torch.randn(4, 5, 2, 3)
    torch.testing.assert_close(floats(x), floats.linear(x.view(4, 5, 6)))
    scalar = part_encoder("x", spaces.Box(-1, 1, (), dtype=np.float32), SIZE)
    assert scalar(torch.randn(4, 5)).shape == (4, 5, SIZE)
    whole = part_encoder("x", spaces.Box(0, 255, (3,), dtype=np.uint8), SIZE)
    ones = whole(torch.full((1, 3), 255, dtype=torch.uint8))
    torch.testing.assert_close(ones, whole.linear(torch.ones(1, 3)))


def test_images_go_through_convolutions() -> None:
    encoder = part_encoder("image", spaces.Box(0, 255, (16, 20, 3), dtype=np.uint8), SIZE)
    assert isinstance(encoder, ImageEncoder)
    images = torch.randint(0, 256, (4, 5, 16, 20, 3), dtype=torch.uint8)
    together = encoder(images)
    torch.testing.assert_close(together[2, 3], encoder(images[2, 3][None])[0])


def test_images_may_have_their_channels_first() -> None:
    first = part_encoder("image", spaces.Box(0, 255, (4, 16, 20), dtype=np.uint8), SIZE)
    last = part_encoder("image", spaces.Box(0, 255, (16, 20, 4), dtype=np.uint8), SIZE)
    last.load_state_dict(first.state_dict())
    images = torch.randint(0, 256, (5, 4, 16, 20), dtype=torch.uint8)
    torch.testing.assert_close(first(images), last(images.movedim(1, -1)))


def test_the_order_of_words_matters_and_padding_does_not() -> None:
    encoder = part_encoder("mission", Tokens([256] * 6), SIZE)
    assert isinstance(encoder, WordsEncoder)
    ids = torch.tensor([[7, 9, 0, 0, 0, 0], [9, 7, 0, 0, 0, 0]])
    first, second = encoder(ids)
    assert not torch.allclose(first, second)
    with torch.no_grad():
        encoder.positions[2:] += 1.0
    torch.testing.assert_close(encoder(ids)[0], first)


def test_an_unsupported_space_is_named() -> None:
    with pytest.raises(UserError, match=r"observation 'words' has the space Text.* supported are Box"):
        part_encoder("words", spaces.Text(5), SIZE)


def test_minigrid_observations_are_encoded_part_by_part() -> None:
    env = make_single("MiniGrid-MemoryS7-v0")
    obs, _ = env.reset(seed=0)
    encoder = ObservationEncoder(env.observation_space, actions_for(env.action_space), SIZE, True, 1.0)
    kinds = {key: type(part).__name__ for key, part in encoder.parts.items()}
    assert kinds == {
        "image": "CategoriesEncoder",
        "direction": "CategoriesEncoder",
        "mission": "WordsEncoder",
    }
    batch = {key: torch.as_tensor(np.asarray(x))[None] for key, x in obs.items()}
    out = encoder(batch, torch.tensor([True]), torch.tensor([-1]), torch.tensor([0.0]))
    assert out.shape == (1, SIZE)


@pytest.mark.parametrize(
    ("parts", "activation", "least"),
    [
        ({"far": spaces.Box(-8, 8, (3,))}, "auto", -1.0),
        ({"far": spaces.Box(-8, 8, (3,))}, "relu", 0.0),
        ({"code": spaces.Box(0, 1, (3,))}, "auto", 0.0),
        ({"far": spaces.Box(-8, 8, (3,)), "symbol": spaces.Discrete(4)}, "auto", 0.0),
        ({"symbol": spaces.Discrete(4)}, "tanh", -1.0),
    ],
)
def test_normalized_numbers_alone_are_followed_by_a_tanh(
    parts: dict[str, spaces.Space], activation: str, least: float
) -> None:
    space = spaces.Dict(parts)
    encoder = ObservationEncoder(
        space, actions_for(spaces.Discrete(2)), 256, False, 1.0, "auto", activation=activation
    )
    obs = {key: torch.as_tensor(np.stack([part.sample()] * 2)) for key, part in space.items()}
    out = encoder(obs, torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.long), torch.zeros(2))
    assert bool((out < 0).any()) == (least < 0)
    assert out.min() >= least


def test_time_and_batch_axes_are_not_mixed() -> None:
    """Rows encoded together equal rows encoded one at a time (T != B)."""
    space = spaces.Dict({"a": spaces.Box(-1, 1, (3,), dtype=np.float32), "b": spaces.MultiBinary(4)})
    encoder = ObservationEncoder(space, actions_for(spaces.Discrete(2)), SIZE, True, 0.5)
    obs = {"a": torch.randn(5, 3, 3), "b": torch.randint(0, 2, (5, 3, 4), dtype=torch.int8)}
    first, action, reward = torch.rand(5, 3) < 0.3, torch.randint(0, 2, (5, 3)), torch.randn(5, 3)
    whole = encoder(obs, first, action, reward)
    for t in range(5):
        row = encoder({k: x[t] for k, x in obs.items()}, first[t], action[t], reward[t])
        torch.testing.assert_close(row, whole[t])
