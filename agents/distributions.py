"""What an agent does, in one place: the actions of a space, and a distribution over them.

`actions_for(space)` gives the `Actions` of a Gymnasium action space: how many numbers the policy head puts out,
what an action looks like as a tensor, how it is drawn, encoded as an input, named, and handed to the environment.
`Actions.distribution(parameters)` gives an `ActionDistribution`. Collecting, learning, evaluating and recalling
know these two interfaces alone; a new kind of action space is a pair of classes here and a line in `actions_for`.

Legend: `...` leading axes, [B] while acting and [T, B] while learning; P numbers of the policy head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from envs.errors import UserError


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
    def probabilities(self) -> Tensor:
        """The probability of every action that `Actions.names` lists, [..., len(names)]."""

    def double(self) -> ActionDistribution:
        """The same distribution in float64."""
        return type(self)(self.parameters.double())


class Actions(ABC):
    """What holds for every distribution over the actions of one space."""

    parameters: int
    """P, the outputs of the policy head."""
    shape: tuple[int, ...]
    """Of one action as a tensor."""
    dtype: torch.dtype
    """Of an action as a tensor."""
    noise_shape: tuple[int, ...]
    """Of what one action is drawn with."""
    names: tuple[str, ...]
    """Of the actions, or of their components where they cannot be counted."""

    @abstractmethod
    def distribution(self, parameters: Tensor) -> ActionDistribution:
        """The distribution that the outputs [..., P] of the policy head stand for."""

    @abstractmethod
    def noise(self, count: int, like: Tensor, generator: torch.Generator) -> Tensor:
        """[count, *noise_shape] for `sample`, with the precision and on the device of `like`."""

    @abstractmethod
    def noise_from(self, rngs: Sequence[np.random.Generator]) -> Tensor:
        """float64 [len(rngs), *noise_shape] for `sample`, each row from a stream of its own."""

    @abstractmethod
    def none(self, count: int, device: torch.device) -> Tensor:
        """[count, *shape]: stands for the previous action where there was none."""

    @abstractmethod
    def encoder(self, size: int) -> nn.Module:
        """A module (previous action [..., *shape], is_first [...]) -> [..., size]."""

    @abstractmethod
    def to_env(self, action: Tensor) -> Any:
        """What `step` of a vector environment takes for actions [B, *shape]; element b is one environment's."""

    @abstractmethod
    def name(self, action: Tensor | np.ndarray | int) -> str:
        """A word or number for one action [*shape]."""


class Categorical(ActionDistribution):
    """One of A actions, with probabilities softmax(parameters [..., A])."""

    @cached_property
    def log_probs(self) -> Tensor:
        """log pi of every action, [..., A]."""
        return torch.log_softmax(self.parameters, dim=-1)

    def sample(self, noise: Tensor) -> Tensor:
        """argmax_a (log pi_a + g_a) with standard Gumbel noise g is a draw from pi; it asks the host nothing."""
        return (self.log_probs + noise).argmax(dim=-1)

    def mode(self) -> Tensor:
        return self.parameters.argmax(dim=-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def kl(self, other: ActionDistribution) -> Tensor:
        assert isinstance(other, Categorical)
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(-1)

    def probabilities(self) -> Tensor:
        return torch.softmax(self.parameters, dim=-1)


class PreviousChoice(nn.Embedding):
    """One vector per previous action, and one, the first, for none."""

    def forward(self, action: Tensor, is_first: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward((action + 1).masked_fill(is_first, 0))


class DiscreteActions(Actions):
    """A numbered actions; as a tensor, the number of the action from 0."""

    shape: tuple[int, ...] = ()
    dtype = torch.int64

    def __init__(self, space: spaces.Discrete) -> None:
        self.start = int(space.start)
        self.parameters = int(space.n)
        self.noise_shape = (self.parameters,)
        self.names = tuple(str(self.start + index) for index in range(self.parameters))

    def distribution(self, parameters: Tensor) -> Categorical:
        return Categorical(parameters)

    def noise(self, count: int, like: Tensor, generator: torch.Generator) -> Tensor:
        """Standard Gumbel noise, -log of exponential noise: no check on the host, unlike torch.multinomial."""
        return -like.new_empty(count, *self.noise_shape).exponential_(generator=generator).log()

    def noise_from(self, rngs: Sequence[np.random.Generator]) -> Tensor:
        return torch.from_numpy(np.stack([rng.gumbel(size=self.noise_shape) for rng in rngs]))

    def none(self, count: int, device: torch.device) -> Tensor:
        return torch.full((count,), -1, dtype=self.dtype, device=device)

    def encoder(self, size: int) -> nn.Module:
        return PreviousChoice(self.parameters + 1, size)

    def to_env(self, action: Tensor) -> np.ndarray:
        return action.cpu().numpy() + self.start

    def name(self, action: Tensor | np.ndarray | int) -> str:
        return self.names[int(action)]


def actions_for(space: spaces.Space[Any]) -> Actions:
    """The actions of a Gymnasium space; raises UserError for a space that no agent can act in yet."""
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(space)
    raise UserError(f"the action space {space} is not supported; agents act in Discrete spaces")
