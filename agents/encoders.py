"""Encoders: observations, previous action and previous reward become one vector per row.

Each part is mapped to the embedding size by its own encoder, the parts are summed, and a ReLU follows, or a tanh where
all parts are normalized numbers; for flat parts the sum equals one linear layer over their concatenation. What an
encoder does follows from the Gymnasium space, and for pictures from --encoder too:

    Box, picture              convolutions, then a linear map (`agents/pictures.py`)
    Box, anything else        a linear map of the flattened numbers
    Discrete, MultiDiscrete,  one embedding per component and value, summed: a linear map of the one-hot
    MultiBinary               code, without building it; categories are never fed as raw integers
    Tokens                    words or characters; the sum over positions j of P_j * E[word_j] keeps their order
                              (Sukhbaatar et al. 2015)

Every distinct observation is encoded once: a rollout of 8,192 rows of MiniGrid-MemoryS7 holds about a hundred
different images and one mission. The encoder runs on those, forward and backward, and a row takes the result of
its own kind; the numbers are the same. While a rollout is collected, what was encoded is looked up when it is seen
again (`remembering`).

Legend: leading axes `...` are [B] while acting and [T, B] while learning; E embedding size;
N rows, W 64-bit words of a row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from agents.distributed import ALONE, Ranks
from agents.distributions import Actions
from agents.normalize import Moments, is_normalized
from agents.pictures import ImageEncoder, check_encoder, encoder_of
from envs.errors import UserError
from envs.observations import ActionMask, Tokens

LARGEST_BOUND = 65_535
"""Above this, the bound of a whole-number Box is that of its type and says nothing about the values."""

FEWEST_ROWS = 256
"""Below this, as while acting, looking for repetitions takes as long as encoding."""

LOOKED_UP = 64, 1_024
"""Numbers of an observation, at least and at most, for which looking it up while acting takes less than encoding it."""

MOST_KNOWN = 16_384
"""Observations that are kept for looking up."""


class NumbersEncoder(nn.Module):
    """Linear map of the flattened entries of a Box."""

    def __init__(self, space: spaces.Box, size: int, moments: Moments | None = None) -> None:
        super().__init__()
        self.dims, self.moments = len(space.shape), moments
        # Whole numbers with a real bound (bytes, for example) are brought to about [0, 1]; floats, and whole
        # numbers bounded by nothing but their type, are taken as they are.
        high = float(np.max(space.high, initial=1)) if np.issubdtype(space.dtype, np.integer) else 1.0
        self.scale = 1.0 / high if 1.0 < high <= LARGEST_BOUND and moments is None else 1.0
        self.linear = nn.Linear(int(np.prod(space.shape)), size)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.moments is None else self.moments(x)
        flat = x.flatten(x.dim() - self.dims) if self.dims else x.unsqueeze(-1)
        flat = flat.to(self.linear.weight.dtype)
        return self.linear(flat if self.scale == 1.0 else flat * self.scale)


class CategoriesEncoder(nn.Module):
    """Sum of one embedding per component: component i with value k uses row offset_i + k of one table."""

    offsets: Tensor

    def __init__(self, counts: np.ndarray, starts: np.ndarray, size: int) -> None:
        """`counts` categories per component, the smallest of which is `starts`; both in the observation's shape."""
        super().__init__()
        self.dims = counts.ndim
        counts = counts.astype(np.int64).reshape(-1)
        offsets = np.concatenate([[0], np.cumsum(counts)[:-1]]) - starts.astype(np.int64).reshape(-1)
        self.register_buffer("offsets", torch.as_tensor(offsets), persistent=False)
        self.table = nn.EmbeddingBag(int(counts.sum()), size, mode="sum")
        bound = 1.0 / np.sqrt(len(counts))
        nn.init.uniform_(self.table.weight, -bound, bound)
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        leading = x.shape[: x.dim() - self.dims]
        components = len(self.offsets)
        rows = torch.add(x.reshape(-1, components), self.offsets)
        starts = torch.arange(0, rows.numel(), components, device=rows.device)
        # What nn.EmbeddingBag comes to (mode 0 is a sum); its checks take as long as the sum while acting.
        summed = torch.embedding_bag(self.table.weight, rows.flatten(), starts, mode=0)[0]
        return summed.view(*leading, -1) + self.bias


class WordsEncoder(nn.Module):
    """Word ids [..., L] (0 = padding) as the sum over positions of position vector times word vector."""

    def __init__(self, space: spaces.MultiDiscrete, size: int, width: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(int(space.nvec.max()), width, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(len(space.nvec), width))
        self.linear = nn.Linear(width, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((self.positions * self.words(x.long())).sum(-2))


class ObservationEncoder(nn.Module):
    """One encoder per key of a Dict space, plus the previous action and reward if asked for."""

    def __init__(
        self,
        space: spaces.Dict,
        actions: Actions,
        size: int,
        previous_inputs: bool,
        reward_scale: float,
        normalize: str = "off",
        normalize_reward: bool = False,
        encoder: str = "auto",
        activation: str = "auto",
    ) -> None:
        """`normalize`: which observations are brought to one scale (`agents/normalize.py`); `normalize_reward`:
        whether the previous reward is; `encoder`: that of pictures (`agents/pictures.py`); `activation`: `auto` is
        tanh where all parts are normalized numbers, and relu otherwise."""
        super().__init__()
        self.output_size = size
        self.reward_scale = reward_scale
        check_encoder(encoder, space)
        entries = [(key, part) for key, part in space.items() if not isinstance(part, ActionMask)]
        self.names = module_names([key for key, _ in entries])
        self.parts = nn.ModuleDict(
            {self.names[key]: part_encoder(key, part, size, normalize, encoder) for key, part in entries}
        )
        normalized = all(getattr(part, "moments", None) is not None for part in self.parts.values())
        # With a ReLU the goal of MountainCar is never met (docs/defaults.md).
        self.activation = (
            torch.tanh if activation == "tanh" or (activation == "auto" and normalized) else torch.relu
        )
        self.previous_action = actions.encoder(size) if previous_inputs else None
        self.previous_reward = nn.Linear(1, size, bias=False) if previous_inputs else None
        self.reward_moments = Moments() if previous_inputs and normalize_reward else None
        shapes = [
            part.shape or () for _, part in entries if np.issubdtype(part.dtype or np.float64, np.integer)
        ]
        numbers = sum(math.prod(shape) for shape in shapes)
        self.repeats = len(shapes) == len(entries) and LOOKED_UP[0] <= numbers <= LOOKED_UP[1]
        """Whether observations are whole numbers alone, and as many as `LOOKED_UP` says."""
        self.known: dict[tuple[bytes, ...], Tensor] | None = None
        """Encodings [E] of the observations seen within `remembering`."""

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Encode no observation twice, under no_grad; within it no parameter may change."""
        usable = self.repeats and next(self.parameters()).device.type == "cpu"
        self.known = {} if usable else None
        try:
            yield
        finally:
            self.known = None

    def _observed(self, obs: dict[str, Tensor], leading: int) -> Tensor:
        """The sum of the parts."""
        parts = [encode_rows(self.parts[name], obs[key], leading) for key, name in self.names.items()]
        return functools.reduce(torch.add, parts)

    def _looked_up(self, obs: dict[str, Tensor], known: dict[tuple[bytes, ...], Tensor]) -> Tensor:
        """The same of rows [B, ...], of which those that are not known yet are encoded."""
        rows = list(zip(*(bytes_of_rows(obs[key]) for key in self.names), strict=True))
        missing = [place for place, row in enumerate(rows) if row not in known]
        if missing:
            encoded = self._observed({key: obs[key][missing] for key in self.names}, 1)
            known.update(zip((rows[place] for place in missing), encoded.unbind(), strict=True))
        found = torch.stack([known[row] for row in rows])
        if len(known) > MOST_KNOWN:
            known.clear()
        return found

    def forward(self, obs: dict[str, Tensor], is_first: Tensor, action: Tensor, reward: Tensor) -> Tensor:
        """obs[key] [..., *shape]; is_first, previous action, previous raw reward [...]."""
        if self.known is not None and is_first.dim() == 1:
            total = self._looked_up(obs, self.known)
        else:
            total = self._observed(obs, is_first.dim())
        if self.previous_action is not None and self.previous_reward is not None:
            scaled = reward if self.reward_moments is None else self.reward_moments(reward)
            if self.reward_moments is None and self.reward_scale != 1.0:
                scaled = reward * self.reward_scale
            scaled = scaled.masked_fill(is_first, 0.0).to(total.dtype)
            total = (
                total + self.previous_action(action, is_first) + self.previous_reward(scaled.unsqueeze(-1))
            )
        return self.activation(total)

    def count(self, obs: dict[str, Tensor], reward: Tensor, valid: Tensor, ranks: Ranks = ALONE) -> None:
        """Take a rollout into the statistics: obs[key] [T or more, N, ...], reward and valid [T, N]."""
        for key, name in self.names.items():
            moments = getattr(self.parts[name], "moments", None)
            if moments is not None:
                moments.count(obs[key][: len(valid)], valid, ranks)
        if self.reward_moments is not None:
            self.reward_moments.count(reward, valid, ranks)


def module_names(keys: list[str]) -> dict[str, str]:
    """A name that a module may have for every key: the key itself, where torch takes it."""
    names: dict[str, str] = {}
    for place, key in enumerate(keys):
        usable = key != "" and "." not in key and not hasattr(nn.ModuleDict(), key)
        names[key] = key if usable else f"part_{place}"
    return names


def part_encoder(
    key: str, space: spaces.Space, size: int, normalize: str = "off", encoder: str = "auto"
) -> nn.Module:
    """The encoder of one part of the observation; raises UserError for a space it cannot encode."""
    if isinstance(space, Tokens):
        return WordsEncoder(space, size)
    if isinstance(space, spaces.Box):
        if (name := encoder_of(encoder, key, space)) is not None:
            return ImageEncoder(space, size, name)
        normalized = is_normalized(space, normalize)
        return NumbersEncoder(
            space, size, Moments(space.shape, f"observation {key!r}") if normalized else None
        )
    if isinstance(space, spaces.Discrete):
        return CategoriesEncoder(np.array(space.n), np.array(space.start), size)
    if isinstance(space, spaces.MultiDiscrete):
        return CategoriesEncoder(space.nvec, space.start, size)
    if isinstance(space, spaces.MultiBinary):
        counts = np.full(space.shape, 2)
        return CategoriesEncoder(counts, np.zeros_like(counts), size)
    raise UserError(
        f"observation {key!r} has the space {space}, which no encoder takes; supported are Box, Discrete, "
        "MultiDiscrete and MultiBinary, alone or in a flat Dict"
    )


class Distinct(NamedTuple):
    """Rows [N] as U kinds."""

    example: Tensor
    """[U] a row of each kind."""
    kind: Tensor
    """[N] the kind of each row."""


def encode_rows(part: nn.Module, x: Tensor, leading: int) -> Tensor:
    """part(x), x [..., *shape] with `leading` leading axes; each distinct row is encoded once where that pays."""
    axes = x.shape[:leading]
    # Numbers that are not whole rarely repeat; on CUDA the search would make the host wait.
    if x.is_cuda or x.is_floating_point() or axes.numel() < FEWEST_ROWS:
        return part(x)
    rows = x.flatten(0, leading - 1)
    distinct = find_distinct(rows)
    if distinct is None:
        return part(x)
    return part(rows[distinct.example]).index_select(0, distinct.kind).view(*axes, -1)


def find_distinct(rows: Tensor) -> Distinct | None:
    """The kinds of rows [N, ...]; None if more than half of the rows are distinct."""
    words = as_words(rows)
    hashed = (words * multipliers(words.shape[1])).sum(1)
    kind = torch.unique(hashed, return_inverse=True)[1]
    count = int(kind.max()) + 1
    if 2 * count > len(words):
        return None
    example = kind.new_empty(count)
    example[kind] = torch.arange(len(words))
    # Different rows may share a hash: then nothing is merged.
    if not torch.equal(words.index_select(0, example.index_select(0, kind)), words):
        return None
    return Distinct(example, kind)


def bytes_of_rows(rows: Tensor) -> list[bytes]:
    """What tells rows [B, ...] apart."""
    content, count = rows.numpy().tobytes(), len(rows)
    width = len(content) // count
    return [content[place : place + width] for place in range(0, len(content), width)]


def as_words(rows: Tensor) -> Tensor:
    """The bytes of rows [N, ...] as int64 [N, W], filled up with zeros."""
    raw = rows.reshape(len(rows), -1).contiguous().view(torch.uint8)
    return F.pad(raw, (0, -raw.shape[1] % 8)).view(torch.int64)


@functools.lru_cache
def multipliers(words: int) -> Tensor:
    """[W] fixed random odd numbers, the coefficients of the hash."""
    generator = torch.Generator().manual_seed(words)
    return torch.randint(-(2**62), 2**62, (words,), generator=generator) * 2 + 1
