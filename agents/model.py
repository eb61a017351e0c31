"""The agent: encoder -> memory core -> policy and value heads.

One `act` serves collecting, evaluating, recording and rendering; `unroll` gives the same numbers for a
whole segment while learning. Legend: T time, B batch, P outputs of the policy head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.config import TrainConfig
from agents.distributions import ActionDistribution, actions_for
from agents.encoders import ObservationEncoder
from agents.normalize import RewardScale
from agents.profile import region
from envs.observations import ActionMask
from memory import AddressRecord, CoreConfig, Intervention, MemoryRecord, make_core, reset_state


class AgentState(NamedTuple):
    """Everything the agent carries from one row to the next."""

    core: Any
    """State of the memory core (a named tuple of tensors)."""
    action: Tensor
    """Previous action, [B, *shape of an action]; ignored where is_first."""
    reward: Tensor
    """Previous raw reward, float32 [B]; ignored where is_first."""


class ActOutput(NamedTuple):
    """What the agent answers to one row."""

    policy: ActionDistribution
    """Over the next action; parameters [B, P]."""
    value: Tensor
    """Estimated (scaled) return, [B]."""
    state: AgentState
    """State with the memory advanced; `after` then notes the action taken and its reward."""
    record: MemoryRecord | AddressRecord | None

    @property
    def logits(self) -> Tensor:
        """The parameters of the policy, [B, P]."""
        return self.policy.parameters


class UnrollOutput(NamedTuple):
    """What the agent says about a segment."""

    policy: ActionDistribution
    """Parameters [T, B, P]."""
    value: Tensor
    """[T, B]."""
    meta_loss: Tensor
    """[T, B]."""
    write_error: Tensor
    """[T, B], detached."""


class ActorCritic(nn.Module):
    """Policy and value function over an interchangeable memory core."""

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        core: CoreConfig,
        embedding_size: int = 128,
        previous_inputs: bool = True,
        reward_scale: float = 1.0,
        normalize: str = "off",
        reward_discount: float | None = None,
        encoder: str = "auto",
        activation: str = "auto",
    ) -> None:
        """`normalize`: which observations (`agents/normalize.py`); with `reward_discount` rewards are too, by the
        deviation of the return that it discounts; `encoder`: that of pictures (`agents/pictures.py`); `activation`:
        that of encoded observations (`agents/encoders.py`)."""
        super().__init__()
        self.actions = actions_for(action_space)
        self.encoder = ObservationEncoder(
            observation_space,
            self.actions,
            embedding_size,
            previous_inputs,
            reward_scale,
            normalize,
            reward_discount is not None,
            encoder,
            activation,
        )
        self.return_scale = None if reward_discount is None else RewardScale(reward_discount)
        self.core = make_core(core, embedding_size)
        self.policy_head = self.actions.head(self.core.output_size)
        masks = [key for key, part in observation_space.items() if isinstance(part, ActionMask)]
        self.mask_key = masks[0] if masks else None
        self.value_head = nn.Linear(self.core.output_size, 1)
        # A nearly uniform first policy: no action is ruled out before anything was learnt.
        nn.init.orthogonal_(self.policy_head.weight, 0.01)
        nn.init.zeros_(self.policy_head.bias)
        nn.init.orthogonal_(self.value_head.weight, 1.0)
        nn.init.zeros_(self.value_head.bias)

    @property
    def device(self) -> torch.device:
        """Where the agent lives."""
        return self.policy_head.weight.device

    def initial_state(self, batch_size: int) -> AgentState:
        return AgentState(
            self.core.initial_state(batch_size),
            self.actions.none(batch_size, self.device),
            torch.zeros(batch_size, device=self.device),
        )

    def act(
        self,
        obs: dict[str, Tensor],
        is_first: Tensor,
        state: AgentState,
        record: bool = False,
        noise: Tensor | None = None,
        copies: int = 1,
        intervention: Intervention | None = None,
    ) -> ActOutput:
        """One row: obs[key] [B, ...], is_first bool [B]; state is reset where is_first is set.

        noise [B, *core.noise_shape] for a core that chooses at random; without it the choice is the best one.
        For recall: `copies` states may see one and the same row (B = 1 but for state.core and noise), and an
        `intervention` changes what a core with a write memory writes and reads.
        """
        x_t = self.encoder(obs, is_first, state.action, state.reward)
        if copies > 1:
            x_t = x_t.expand(copies, -1)
        # Most rows open no episode, and a reset copies the whole memory; a GPU copies sooner than it answers.
        entering = reset_state(state.core, is_first) if is_first.is_cuda or is_first.any() else state.core
        more = {} if intervention is None else {"intervention": intervention}
        output, core_state = self.core.step(x_t, entering, record=record, noise=noise, **more)
        policy, value = self.heads(output.features, obs)
        return ActOutput(policy, value, state._replace(core=core_state), output.record)

    @staticmethod
    def after(state: AgentState, action: Tensor, reward: Tensor) -> AgentState:
        """Note what was done and what came of it, as inputs of the next row; [B, ...]."""
        return state._replace(action=action, reward=reward)

    def unroll(
        self,
        obs: dict[str, Tensor],
        is_first: Tensor,
        previous_action: Tensor,
        previous_reward: Tensor,
        core_state: Any,
        noise: Tensor | None = None,
    ) -> UnrollOutput:
        """A segment: every argument [T, B, ...]; `core_state` enters row 0 before its reset.

        `noise` is what `act` was given in each row: only then does it make the same choices.
        """
        with region("encoder"):
            xs = self.encoder(obs, is_first, previous_action, previous_reward)
        with region("core forward"):
            output, _ = self.core.unroll(xs, core_state, is_first, noise=noise)
        policy, value = self.heads(output.features, obs)
        return UnrollOutput(policy, value, output.meta_loss, output.write_error)

    def heads(self, features: Tensor, obs: dict[str, Tensor]) -> tuple[ActionDistribution, Tensor]:
        """Policy over the legal actions and value [...] of features [..., n]; obs tells what is legal."""
        mask = None if self.mask_key is None else obs[self.mask_key]
        policy = self.actions.distribution(self.policy_head(features), mask)
        return policy, self.value_head(features).squeeze(-1)


def build_model(config: TrainConfig, observation_space: Any, action_space: Any) -> ActorCritic:
    """The agent of a configuration, its weights drawn from the configuration's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return ActorCritic(
            observation_space,
            action_space,
            config.core_config(),
            config.embedding_size,
            config.previous_inputs,
            config.reward_scale,
            config.normalize_observations,
            config.gamma if config.normalize_rewards else None,
            config.encoder,
            config.activation,
        )
