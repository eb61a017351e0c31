"""What an agent does, in one place: the actions of a space, and a distribution over them.

`actions_for(space)` gives the `Actions` of a Gymnasium action space: how many numbers the policy head puts out,
what an action looks like as a tensor, how it is drawn, encoded as an input, named, and handed to the environment.
`Actions.distribution(parameters)` gives an `ActionDistribution`. Collecting, learning, evaluating and recalling
know these two interfaces alone; a new kind of action space is a pair of classes here and a line in `actions_for`.

    Discrete                               a number, drawn from a softmax
    MultiDiscrete, MultiBinary, Box,       a vector of independent components: choices, each drawn from a softmax of
    a Tuple or flat Dict of any of these   its own, and real numbers, each from a Gaussian

A mask of legal actions lowers the logits of the others so far that their probability is exactly 0.

Legend: `...` leading axes, [B] while acting and [T, B] while learning; P parameters of a distribution; of a vector
of W components, K are choices among at most A, and D are real numbers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from envs.errors import UserError

ILLEGAL = -1e30
"""The logit of an action that must not be taken: exp gives exactly 0, and products with it stay finite."""
LARGEST_BOUND = 1e6
"""A Box with larger bounds counts as unbounded."""
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class ActionDistribution(ABC):
    """A distribution over the actions of one space, for every entry of the leading axes.

    It is described by `parameters` [..., P] alone: store those, and `Actions.distribution` makes it again.
    """

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters

    @abstractmethod
    def sample(self, noise: Tensor) -> Tensor:
        """Actions [..., *shape], a function of the noise [..., *noise_shape] that `Actions` draws."""

    @abstractmethod
    def draw(self, rngs: Sequence[np.random.Generator]) -> Tensor:
        """Actions [len(rngs), *shape] of a distribution [len(rngs), P], each from a stream of its own, in float64."""

    @abstractmethod
    def mode(self) -> Tensor:
        """The most probable actions [..., *shape]."""

    @abstractmethod
    def log_prob(self, action: Tensor) -> Tensor:
        """log pi(action) [...] of actions [..., *shape]."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Entropy [...] in nats."""

    @abstractmethod
    def kl(self, other: ActionDistribution) -> Tensor:
        """KL(self || other) [...] in nats, of two distributions over the same space."""

    @abstractmethod
    def probability(self, action: Tensor) -> Tensor:
        """Probability [...] of actions [..., *shape]; a real number counts as its density over that of the mean."""

    @abstractmethod
    def change(self, other: ActionDistribution) -> Tensor:
        """[...] by how much the probability of anything that one component may do differs at most."""

    @abstractmethod
    def double(self) -> ActionDistribution:
        """The same distribution in float64."""


class Actions(ABC):
    """What holds for every distribution over the actions of one space."""

    parameters: int
    """P, what describes a distribution."""
    shape: tuple[int, ...]
    """Of one action as a tensor."""
    dtype: torch.dtype
    """Of an action as a tensor."""
    noise_shape: tuple[int, ...]
    """Of what one action is drawn with."""
    counts: tuple[int, ...] | None
    """Where an action is a vector: the choices of each component, 0 for a real number."""

    @abstractmethod
    def distribution(self, parameters: Tensor, mask: Tensor | None = None) -> ActionDistribution:
        """The distribution that parameters [..., P] stand for; mask [..., choices]: 0 where one must not be taken."""

    def head(self, size: int) -> nn.Linear:
        """The policy head: features [..., size] -> parameters [..., P]."""
        return nn.Linear(size, self.parameters)

    @abstractmethod
    def noise(self, count: int, like: Tensor, generator: torch.Generator) -> Tensor:
        """[count, *noise_shape] for `sample`, with the precision and on the device of `like`."""

    @abstractmethod
    def none(self, count: int, device: torch.device) -> Tensor:
        """[count, *shape]: stands for the previous action where there was none."""

    @abstractmethod
    def encoder(self, size: int) -> nn.Module:
        """A module (previous action [..., *shape], is_first [...]) -> [..., size]."""

    @abstractmethod
    def to_env(self, action: Tensor) -> Any:
        """What `step` of a vector environment takes for actions [B, *shape]; element b is one environment's."""


class Categorical(ActionDistribution):
    """One of A actions, with probabilities softmax(parameters [..., A])."""

    @cached_property
    def log_probs(self) -> Tensor:
        """log pi of every action, [..., A]."""
        return torch.log_softmax(self.parameters, dim=-1)

    def sample(self, noise: Tensor) -> Tensor:
        """argmax_a (log pi_a + g_a) with standard Gumbel noise g is a draw from pi; it asks the host nothing."""
        return (self.log_probs + noise).argmax(dim=-1)

    def draw(self, rngs: Sequence[np.random.Generator]) -> Tensor:
        return self.double().sample(gumbels(rngs, self.parameters))

    def mode(self) -> Tensor:
        return self.parameters.argmax(dim=-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def kl(self, other: ActionDistribution) -> Tensor:
        assert isinstance(other, Categorical)
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(-1)

    def probability(self, action: Tensor) -> Tensor:
        return self.log_prob(action).exp()

    def change(self, other: ActionDistribution) -> Tensor:
        assert isinstance(other, Categorical)
        return (self.log_probs.exp() - other.log_probs.exp()).abs().amax(-1)

    def double(self) -> Categorical:
        return Categorical(self.parameters.double())


def gumbels(rngs: Sequence[np.random.Generator], like: Tensor) -> Tensor:
    """Standard Gumbel noise [len(rngs), A] in float64, of as many numbers as `like` [..., A] has."""
    drawn = np.stack([rng.gumbel(size=like.shape[-1]) for rng in rngs])
    return torch.from_numpy(drawn).to(like.device)


def gumbel_(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise in place of x: -log of exponential noise, with no check on the host."""
    # No draw reaches the clamp but that of exactly 0, which would choose an action of probability 0.
    return x.exponential_(generator=generator).log_().clamp_(min=-128.0).neg_()


def masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits with those of illegal actions at `ILLEGAL`."""
    return logits if mask is None else logits.masked_fill(mask == 0, ILLEGAL)


class PreviousChoice(nn.Embedding):
    """One vector per previous action, and one, the first, for none."""

    def forward(self, action: Tensor, is_first: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward((action + 1).masked_fill(is_first, 0))


class DiscreteActions(Actions):
    """A numbered actions; as a tensor, the number of the action from 0."""

    shape: tuple[int, ...] = ()
    dtype = torch.int64
    counts = None

    def __init__(self, space: spaces.Discrete) -> None:
        self.start = int(space.start)
        self.parameters = int(space.n)
        self.noise_shape = (self.parameters,)

    def distribution(self, parameters: Tensor, mask: Tensor | None = None) -> Categorical:
        return Categorical(masked(parameters, mask))

    def noise(self, count: int, like: Tensor, generator: torch.Generator) -> Tensor:
        return gumbel_(like.new_empty(count, *self.noise_shape), generator)

    def none(self, count: int, device: torch.device) -> Tensor:
        return torch.full((count,), -1, dtype=self.dtype, device=device)

    def encoder(self, size: int) -> nn.Module:
        return PreviousChoice(self.parameters + 1, size)

    def to_env(self, action: Tensor) -> np.ndarray:
        return action.cpu().numpy() + self.start


class Vector(ActionDistribution):
    """Independent choices and real numbers: log-probabilities, entropies and divergences are sums.

    Parameters: the logits of all choices in a row, then the D means, then the D log standard deviations.
    """

    def __init__(self, parameters: Tensor, components: VectorActions) -> None:
        super().__init__(parameters)
        self.components = components

    @cached_property
    def choices(self) -> Categorical:
        """[..., K, A], choices among fewer than A filled up with illegal ones."""
        layout = self.components
        logits = nn.functional.pad(self.parameters[..., : layout.logits], (0, 1), value=ILLEGAL)
        index = torch.as_tensor(layout.places, device=logits.device)
        return Categorical(logits.index_select(-1, index.flatten()).unflatten(-1, index.shape))

    @property
    def mean(self) -> Tensor:
        """[..., D]."""
        return self.parameters[..., self.components.logits :].chunk(2, dim=-1)[0]

    @property
    def log_std(self) -> Tensor:
        """[..., D]."""
        return self.parameters[..., self.components.logits :].chunk(2, dim=-1)[1]

    def sample(self, noise: Tensor) -> Tensor:
        layout = self.components
        gumbel = nn.functional.pad(noise[..., : layout.logits], (0, 1))
        index = torch.as_tensor(layout.places, device=noise.device)
        chosen = self.choices.sample(gumbel.index_select(-1, index.flatten()).unflatten(-1, index.shape))
        return layout.join(chosen, self.mean + self.log_std.exp() * noise[..., layout.logits :])

    def draw(self, rngs: Sequence[np.random.Generator]) -> Tensor:
        layout = self.components
        gumbel = gumbels(rngs, self.parameters[..., : layout.logits])
        normal = torch.from_numpy(np.stack([rng.normal(size=len(layout.real_at)) for rng in rngs]))
        return self.double().sample(torch.cat([gumbel, normal.to(gumbel.device)], dim=-1))

    def mode(self) -> Tensor:
        return self.components.join(self.choices.mode(), self.mean)

    def log_prob(self, action: Tensor) -> Tensor:
        chosen, real = self.components.split(action)
        standard = (real - self.mean) * torch.exp(-self.log_std)
        density = -0.5 * standard.square() - self.log_std - HALF_LOG_2PI
        return self.choices.log_prob(chosen).sum(-1) + density.sum(-1)

    def entropy(self) -> Tensor:
        return self.choices.entropy().sum(-1) + (self.log_std + 0.5 + HALF_LOG_2PI).sum(-1)

    def kl(self, other: ActionDistribution) -> Tensor:
        assert isinstance(other, Vector)
        distance = (self.mean - other.mean) * torch.exp(-other.log_std)
        log_ratio = self.log_std - other.log_std
        real = 0.5 * ((2.0 * log_ratio).exp() + distance.square() - 1.0) - log_ratio
        return self.choices.kl(other.choices).sum(-1) + real.sum(-1)

    def probability(self, action: Tensor) -> Tensor:
        chosen, real = self.components.split(action)
        standard = (real - self.mean) * torch.exp(-self.log_std)
        return (self.choices.log_prob(chosen).sum(-1) - 0.5 * standard.square().sum(-1)).exp()

    def change(self, other: ActionDistribution) -> Tensor:
        """Of Gaussians with the same deviation, as an agent's are, erf(|mean - mean'| / (std sqrt 8))."""
        assert isinstance(other, Vector)
        distance = (self.mean - other.mean).abs() * torch.exp(-self.log_std)
        real = torch.erf(distance / math.sqrt(8.0))
        # A component that does not exist changes nothing: amax needs at least one.
        chosen = nn.functional.pad(self.choices.change(other.choices), (0, 1))
        return torch.cat([chosen, real], dim=-1).amax(-1)

    def double(self) -> Vector:
        return Vector(self.parameters.double(), self.components)


class VectorHead(nn.Linear):
    """Logits and means from the features, log standard deviations from parameters of their own.

    Both are in units of a bounded Box: mean 0 is its middle and deviation 1 half its width, whatever these are.
    """

    shift: Tensor
    scale: Tensor
    log_scale: Tensor

    def __init__(self, size: int, actions: VectorActions) -> None:
        super().__init__(size, actions.logits + len(actions.real_at))
        self.log_std = nn.Parameter(torch.zeros(len(actions.real_at)))
        middle, half = nn.functional.pad(actions.middle, (actions.logits, 0)), actions.half
        self.register_buffer("shift", middle, persistent=False)
        self.register_buffer("log_scale", half.log(), persistent=False)
        self.register_buffer(
            "scale", nn.functional.pad(half, (actions.logits, 0), value=1.0), persistent=False
        )

    def forward(self, features: Tensor) -> Tensor:
        first = self.shift + self.scale * super().forward(features)
        log_std = self.log_std + self.log_scale
        return torch.cat([first, log_std.expand(*first.shape[:-1], -1)], dim=-1)


class PreviousVector(nn.Linear):
    """A linear map of the previous choices (one-hot) and real numbers (in units of their Box); a vector for none.

    Real numbers come as the environment took them, clipped to the bounds, or where there is no bound compressed to
    sign(x) log(1 + |x|). As they were drawn they would feed back on themselves: a policy that answers an action with
    a larger one would grow exponentially within an episode.
    """

    shift: Tensor
    scale: Tensor
    bounded: Tensor

    def __init__(self, actions: VectorActions, size: int) -> None:
        super().__init__(actions.logits + len(actions.real_at), size)
        self.none = nn.Parameter(torch.zeros(size))
        self.components = actions
        self.register_buffer("shift", actions.middle, persistent=False)
        self.register_buffer("scale", actions.half, persistent=False)
        self.register_buffer("bounded", actions.bounded, persistent=False)

    def forward(self, action: Tensor, is_first: Tensor) -> Tensor:  # type: ignore[override]
        chosen, real = self.components.split(action.to(self.weight.dtype))
        places = torch.as_tensor(self.components.places, device=action.device)
        one_hot = self.weight.new_zeros(*action.shape[:-1], self.components.logits)
        at = places[:, 0] + chosen if len(places) else chosen
        one_hot = one_hot.scatter(-1, at, 1.0)
        units = (real - self.shift) / self.scale
        taken = torch.where(self.bounded, units.clamp(-1.0, 1.0), units.sign() * units.abs().log1p())
        encoded = super().forward(torch.cat([one_hot, taken], dim=-1))
        return torch.where(is_first.unsqueeze(-1), self.none, encoded)


class VectorActions(Actions):
    """W numbers in a row, float32: choices counted from 0, and real numbers, which the environment clips."""

    dtype = torch.float32

    def __init__(self, counts: Sequence[int], bounds: Sequence[tuple[float, float] | None] = ()) -> None:
        """`counts` [W] choices of each component, 0 for a real number; `bounds` [D] of real numbers, None: none."""
        self.counts: tuple[int, ...] = tuple(counts)
        self.choice_at = [place for place, count in enumerate(counts) if count]
        self.real_at = [place for place, count in enumerate(counts) if not count]
        self.logits = sum(counts)
        limits = list(bounds) or [None] * len(self.real_at)
        self.bounded = torch.tensor([limit is not None for limit in limits], dtype=torch.bool)
        self.middle = torch.tensor(
            [0.0 if limit is None else (limit[0] + limit[1]) / 2.0 for limit in limits]
        )
        self.half = torch.tensor([1.0 if limit is None else (limit[1] - limit[0]) / 2.0 for limit in limits])
        self.shape = (len(counts),)
        self.parameters = self.logits + 2 * len(self.real_at)
        self.noise_shape = (self.logits + len(self.real_at),)
        self.places = _places([counts[place] for place in self.choice_at])
        """[K, A] where in a row of logits each choice has its own; one behind the last where it has none."""
        self.order = np.argsort([*self.choice_at, *self.real_at]).tolist()

    def split(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Choices, int64 [..., K], and real numbers [..., D] of actions [..., W]."""
        return action[..., self.choice_at].long(), action[..., self.real_at]

    def join(self, chosen: Tensor, real: Tensor) -> Tensor:
        """The actions, float32 [..., W], of choices [..., K] and real numbers [..., D]."""
        return torch.cat([chosen.to(self.dtype), real.to(self.dtype)], dim=-1)[..., self.order]

    def distribution(self, parameters: Tensor, mask: Tensor | None = None) -> Vector:
        if mask is not None:
            logits, real = parameters[..., : self.logits], parameters[..., self.logits :]
            parameters = torch.cat([masked(logits, mask), real], dim=-1)
        return Vector(parameters, self)

    def head(self, size: int) -> nn.Linear:
        return VectorHead(size, self)

    def noise(self, count: int, like: Tensor, generator: torch.Generator) -> Tensor:
        gumbel = gumbel_(like.new_empty(count, self.logits), generator)
        normal = like.new_empty(count, len(self.real_at)).normal_(generator=generator)
        return torch.cat([gumbel, normal], dim=-1)

    def none(self, count: int, device: torch.device) -> Tensor:
        return torch.zeros(count, *self.shape, dtype=self.dtype, device=device)

    def encoder(self, size: int) -> nn.Module:
        return PreviousVector(self, size)

    def to_env(self, action: Tensor) -> np.ndarray:
        return action.double().cpu().numpy()


def _places(counts: Sequence[int]) -> np.ndarray:
    """[K, A] positions of the logits of K choices in one row of sum(counts), filled up with sum(counts)."""
    places = np.full((len(counts), max(counts, default=1)), sum(counts))
    for k, (first, count) in enumerate(zip(np.cumsum([0, *counts]), counts, strict=False)):
        places[k, :count] = np.arange(first, first + count)
    return places


def actions_for(space: spaces.Space[Any]) -> Actions:
    """The actions of a Gymnasium space; raises UserError for a space that no agent can act in."""
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(space)
    counts: list[int] = []
    bounds: list[tuple[float, float] | None] = []
    for part in space.spaces if isinstance(space, spaces.Tuple) else (space,):
        if isinstance(part, spaces.Discrete):
            counts.append(int(part.n))
        elif isinstance(part, spaces.MultiDiscrete):
            counts.extend(int(n) for n in part.nvec.reshape(-1))
        elif isinstance(part, spaces.MultiBinary):
            counts.extend([2] * math.prod(part.shape))
        elif isinstance(part, spaces.Box):
            for low, high in zip(part.low.reshape(-1).tolist(), part.high.reshape(-1).tolist(), strict=True):
                bounded = -LARGEST_BOUND <= low < high <= LARGEST_BOUND
                counts.append(0)
                bounds.append((low, high) if bounded else None)
        else:
            raise UserError(
                f"the action space {space} is not supported; agents act in Discrete, MultiDiscrete, MultiBinary and "
                "Box spaces, or in a Tuple of them"
            )
    return VectorActions(counts, bounds)
