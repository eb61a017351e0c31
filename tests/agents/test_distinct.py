"""Encoding each distinct row once, also over a rollout: the same numbers and gradients, no two rows taken for one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

import agents.encoders
from agents.distributions import actions_for
from agents.encoders import FEWEST_ROWS, ObservationEncoder, encode_rows, find_distinct, part_encoder
from envs.observations import Tokens

T, B = 20, 24


def repeating_rows(kinds: int) -> Tensor:
    """[T, B, 5, 3] rows of `kinds` kinds, every kind present."""
    torch.manual_seed(0)
    table = torch.randint(0, 4, (kinds, 5, 3), dtype=torch.uint8)
    order = torch.randperm(T * B) % kinds
    return table[order].view(T, B, 5, 3)


@pytest.mark.parametrize("kinds", [1, 7, T * B])
def test_values_and_gradients_are_those_of_the_plain_encoder(kinds: int) -> None:
    assert T * B >= FEWEST_ROWS
    encoder = part_encoder("x", spaces.MultiDiscrete([[4] * 3] * 5), 6).double()
    x, weights = repeating_rows(kinds), torch.randn(T, B, 6, dtype=torch.float64)
    found = []
    for encoded in (encode_rows(encoder, x, 2), encoder(x)):
        found.append((encoded, *torch.autograd.grad((encoded * weights).sum(), list(encoder.parameters()))))
    assert torch.equal(found[0][0], found[1][0])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_every_kind_is_found_once(dtype: torch.dtype) -> None:
    rows = repeating_rows(7).flatten(0, 1).to(dtype)
    distinct = find_distinct(rows)
    assert distinct is not None
    assert len(distinct.example) == len(torch.unique(rows.flatten(1).to(torch.uint8), dim=0))
    assert torch.equal(rows[distinct.example][distinct.kind], rows)


def test_rows_that_hardly_repeat_are_left_alone() -> None:
    assert find_distinct(torch.arange(100)[:, None]) is None


def test_a_shared_hash_merges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents.encoders, "multipliers", lambda words: torch.zeros(words, dtype=torch.int64))
    assert find_distinct(repeating_rows(7).flatten(0, 1)) is None


def remembering_encoder(space: spaces.Dict) -> ObservationEncoder:
    torch.manual_seed(0)
    return ObservationEncoder(
        space, actions_for(spaces.Discrete(3)), 8, previous_inputs=True, reward_scale=1.0
    )


VIEW = spaces.Dict(
    {
        "image": spaces.MultiDiscrete(np.full((5, 5, 3), 6)),
        "mission": Tokens(np.full(7, 20)),
        "facing": spaces.Discrete(4),
    }
)


def acting_rows(
    space: spaces.Dict, kinds: int, count: int
) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """Rows drawn from a few observations, with actions and rewards of their own."""
    space.seed(0)
    seen = [space.sample() for _ in range(kinds)]
    chosen = torch.randint(0, kinds, (count,), generator=torch.Generator().manual_seed(1))
    obs = {key: torch.as_tensor(np.stack([seen[i][key] for i in chosen])) for key in space}
    return obs, chosen % 5 == 0, chosen % 3, chosen.float()


@torch.no_grad()
def test_what_is_looked_up_is_what_would_be_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = remembering_encoder(VIEW)
    calls: list[int] = []
    observed = encoder._observed
    monkeypatch.setattr(
        encoder, "_observed", lambda obs, n: calls.append(len(obs["facing"])) or observed(obs, n)
    )
    rows = acting_rows(VIEW, kinds=4, count=16)
    plain = encoder(*rows)
    with encoder.remembering():
        first, second = encoder(*rows), encoder(*rows)
        other = encoder(*acting_rows(VIEW, kinds=5, count=16))
    torch.testing.assert_close(first, plain)
    assert torch.equal(first, second)
    assert calls[0] == calls[1] == 16
    assert len(calls) == 3, "the second time all were known"
    assert calls[2] < 16, "and of the others only what was new is encoded"
    torch.testing.assert_close(other, encoder(*acting_rows(VIEW, kinds=5, count=16)))


@torch.no_grad()
def test_nothing_is_known_outside_of_a_rollout() -> None:
    """The parameters have changed until the next one."""
    encoder = remembering_encoder(VIEW)
    rows = acting_rows(VIEW, kinds=4, count=16)
    with encoder.remembering():
        before = encoder(*rows)
    for parameter in encoder.parameters():
        parameter.add_(1.0)
    with encoder.remembering():
        torch.testing.assert_close(encoder(*rows), encoder(*rows))
        assert not torch.equal(encoder(*rows), before)
    assert encoder.known is None


@torch.no_grad()
def test_only_so_many_observations_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.encoders.MOST_KNOWN", 3)
    encoder = remembering_encoder(VIEW)
    rows = acting_rows(VIEW, kinds=8, count=16)
    with encoder.remembering():
        for _ in range(3):
            torch.testing.assert_close(encoder(*rows), remembering_encoder(VIEW)(*rows))
            assert encoder.known is not None
            assert len(encoder.known) <= 3


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"x": spaces.Box(-1.0, 1.0, (100,))}),
        spaces.Dict({"few": spaces.MultiDiscrete([5, 5])}),
        spaces.Dict({"picture": spaces.Box(0, 255, (32, 32, 3), dtype=np.uint8)}),
        spaces.Dict({"image": spaces.MultiDiscrete(np.full(100, 6)), "speed": spaces.Box(-1.0, 1.0, (1,))}),
    ],
    ids=["numbers", "few", "picture", "mixed"],
)
def test_what_rarely_repeats_or_is_soon_encoded_is_not_looked_up(space: spaces.Dict) -> None:
    encoder = remembering_encoder(space)
    with encoder.remembering():
        assert encoder.known is None
