"""Rollouts: T rows of N environments, collected with the state that enters row 0.

Row t holds everything about one call of the policy: what it saw (`obs`, `is_first`), what it answered
(`action`, `log_prob`, `value`), what the environment answered (`reward`, `terminated`, `truncated`), and
whether the row is a real transition (`valid`). `next_value` is the value of the observation that follows in
the same episode, 0 where it terminated. The three autoreset dialects meet here and end here:

    SAME_STEP   the final observation of a truncated episode comes apart; it is evaluated with the state
                carried to it, and that evaluation's state is thrown away
    NEXT_STEP   the final observation is the next row, so next_value[t] = value[t+1] is already right
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.distributed import ALONE, Ranks
from agents.distributions import Actions
from agents.episodes import EpisodeLog
from agents.model import ActorCritic, ActOutput, AgentState
from agents.profile import region
from envs import VecEnv, VecStep
from memory import detach_state, select_state
from memory.hard.straight_through import gumbel_noise


@dataclass
class Rollout:
    """Tensors [T, N, ...] on the agent's device, preallocated once and overwritten by every collection."""

    obs: dict[str, Tensor]
    """What the policy saw; [T + 1, N, ...], because the last row opens the next rollout."""
    is_first: Tensor
    """bool [T + 1, N]; obs[t] opens an episode."""
    previous_action: Tensor
    previous_reward: Tensor
    action: Tensor
    log_prob: Tensor
    value: Tensor
    next_value: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    core_state: Any
    """State of the core that enters row 0, before that row's reset; detached."""
    noise: Tensor | None
    """[T + 1, N, ...] random numbers that the core consumes in each row; None for a core without chance."""

    @classmethod
    def allocate(
        cls,
        env: VecEnv,
        actions: Actions,
        steps: int,
        like: Tensor,
        noise_shape: tuple[int, ...] | None = None,
    ) -> Rollout:
        """Empty rows for `steps` steps of `env`, on the device and in the precision of `like`."""
        shape, device = (steps, env.num_envs), like.device

        def numbers() -> Tensor:
            return like.new_zeros(shape)

        def chosen() -> Tensor:
            return torch.zeros((*shape, *actions.shape), dtype=actions.dtype, device=device)

        def flags(rows: int = steps) -> Tensor:
            return torch.zeros((rows, env.num_envs), dtype=torch.bool, device=device)

        obs = {
            key: torch.zeros(
                (steps + 1, env.num_envs, *(space.shape or ())),
                dtype=torch.from_numpy(np.zeros(0, space.dtype)).dtype,
                device=device,
            )
            for key, space in env.observation_space.spaces.items()
        }
        return cls(
            obs=obs,
            is_first=flags(steps + 1),
            previous_action=chosen(),
            previous_reward=numbers(),
            action=chosen(),
            log_prob=numbers(),
            value=numbers(),
            next_value=numbers(),
            reward=numbers(),
            terminated=flags(),
            truncated=flags(),
            valid=flags(),
            core_state=None,
            noise=None if noise_shape is None else like.new_zeros(steps + 1, env.num_envs, *noise_shape),
        )

    @property
    def done(self) -> Tensor:
        """bool [T, N]; the episode ended with this row, in either way."""
        return self.terminated | self.truncated

    def columns(self, index: Tensor) -> Rollout:
        """The rows of the environments `index`, as a rollout of their own (T rows, no row T)."""
        steps = len(self.action)
        parts: dict[str, Any] = {}
        for field in fields(self):
            rows = getattr(self, field.name)
            if field.name == "obs":
                parts["obs"] = {key: x[:steps, index] for key, x in rows.items()}
            elif field.name == "core_state":
                parts["core_state"] = select_state(rows, index)
            elif rows is None:
                parts[field.name] = None
            else:
                parts[field.name] = rows[:steps, index]
        return Rollout(**parts)


FinalValues = tuple[Tensor, Tensor]
"""The environments whose episodes were cut in a row, and the values of the observations that followed there."""


class RowViews:
    """The rows of a rollout one by one, made once: a view takes as long to make as a row to write."""

    def __init__(self, rollout: Rollout) -> None:
        columns = {field.name: getattr(rollout, field.name) for field in fields(rollout)}
        by_key = [x.unbind() for x in rollout.obs.values()]
        self.obs = [dict(zip(rollout.obs, row, strict=True)) for row in zip(*by_key, strict=True)]
        self.is_first, self.action, self.log_prob, self.value, self.reward = (
            columns[name].unbind() for name in ("is_first", "action", "log_prob", "value", "reward")
        )
        self.put_obs = {key: writer(x) for key, x in rollout.obs.items()}
        told = ("is_first", "reward", "terminated", "truncated", "valid")
        self.put = {name: writer(columns[name]) for name in told}


def writer(rows: Tensor) -> Callable[[int, np.ndarray], None]:
    """Copies (row, array of the host); to a GPU from pinned memory, without waiting for it."""
    if not rows.is_cuda:
        return rows.numpy().__setitem__

    def put(row: int, array: np.ndarray) -> None:
        rows[row].copy_(torch.from_numpy(np.asarray(array)).pin_memory(), non_blocking=True)

    return put


class Collector:
    """Plays the policy in the environments and carries everything that must survive between rollouts."""

    def __init__(
        self,
        env: VecEnv,
        model: ActorCritic,
        steps: int,
        generator: torch.Generator,
        ranks: Ranks = ALONE,
    ) -> None:
        self.env, self.model, self.generator, self.ranks = env, model, generator, ranks
        self.device = model.policy_head.weight.device
        weight, noise_shape = model.policy_head.weight.detach(), model.core.noise_shape
        self.rollout = Rollout.allocate(env, model.actions, steps, weight, noise_shape)
        self.rows = RowViews(self.rollout)
        self.episodes = EpisodeLog(env.num_envs, env.success_rule)
        self.state: AgentState = model.initial_state(env.num_envs)
        self.discounted = torch.zeros(env.num_envs, device=self.device)
        """Discounted return of the running episodes, where rewards are normalized."""
        self.frames = 0

    def start(self) -> None:
        """Reset the environments; the next row opens an episode everywhere."""
        self._see(self.env.reset(), np.ones(self.env.num_envs, dtype=bool), row=-1)
        self._draw_noise(row=-1)

    @torch.no_grad()
    def collect(self) -> Rollout:
        """Fill the rollout with the next T rows and return it."""
        rollout = self.rollout
        steps = len(rollout.action)
        for key in rollout.obs:
            rollout.obs[key][0] = rollout.obs[key][-1]
        rollout.is_first[0] = rollout.is_first[-1]
        if rollout.noise is not None:
            rollout.noise[0] = rollout.noise[-1]
        rollout.core_state = detach_state(self.state.core)
        rollout.previous_action[0], rollout.previous_reward[0] = self.state.action, self.state.reward
        with self.model.encoder.remembering():
            ended = [(t, final) for t in range(steps) if (final := self._row(t)) is not None]
        # The last reward is a view of a row that the next rollout overwrites.
        self.state = self.state._replace(reward=self.state.reward.clone())
        # One more evaluation for next_value of the last row; it must not advance the carried state.
        with region("act"):
            last = self._act(steps)
            self._fill(last.value, ended)
        if self.model.return_scale is not None:
            self.discounted = self.model.return_scale.count_rewards(
                rollout.reward, rollout.valid, rollout.done, self.discounted, self.ranks
            )
        self.frames += int(self.ranks.sum(rollout.valid.sum()))
        self.episodes.merge(self.ranks)
        return rollout

    def _row(self, t: int) -> FinalValues | None:
        """Play row t; returns the values of episodes that were cut in it, under SAME_STEP."""
        rows, model = self.rows, self.model
        with region("act"):
            out = self._act(t)
            noise = draw_for_all(
                lambda count: model.actions.noise(count, out.value, self.generator),
                len(out.value),
                self.ranks,
            )
            action = out.policy.sample(noise)
            rows.action[t].copy_(action)
            rows.log_prob[t].copy_(out.policy.log_prob(action))
            rows.value[t].copy_(out.value)
            actions = model.actions.to_env(action)
        with region("env"):
            step = self.env.step(actions)
            self.episodes.add(step)

        for name in ("reward", "terminated", "truncated", "valid"):
            rows.put[name](t, getattr(step, name))
        self._see(step.obs, step.is_first, row=t + 1)
        self._draw_noise(row=t + 1)
        self.state = model.after(out.state, action, rows.reward[t])
        return None if step.final_obs is None else self._value_of_final(t, step, step.final_obs)

    def _act(self, row: int) -> ActOutput:
        return self.model.act(self.rows.obs[row], self.rows.is_first[row], self.state, noise=self._noise(row))

    def _see(self, obs: dict[str, np.ndarray], is_first: np.ndarray, row: int) -> None:
        for key, x in obs.items():
            self.rows.put_obs[key](row, x)
        self.rows.put["is_first"](row, is_first)

    def _draw_noise(self, row: int) -> None:
        """The noise belongs to the row like its observation: whoever evaluates the row again gets the same."""
        if self.rollout.noise is not None:
            count, *shape = self.rollout.noise[row].shape
            self.rollout.noise[row] = draw_for_all(
                lambda rows: gumbel_noise((rows, *shape), self.generator), count, self.ranks
            )

    def _noise(self, row: int) -> Tensor | None:
        return None if self.rollout.noise is None else self.rollout.noise[row]

    def _value_of_final(self, t: int, step: VecStep, final_obs: dict[str, np.ndarray]) -> FinalValues | None:
        """Which environments cut their episode at t, and the values of what followed there; None if none did."""
        rows = np.flatnonzero(step.truncated & ~step.terminated)  # The host knows: no need to ask the device.
        if not len(rows):
            return None
        index = torch.from_numpy(rows).to(self.device)
        obs = {key: torch.from_numpy(np.asarray(x)[rows]).to(self.device) for key, x in final_obs.items()}
        never_first = torch.zeros(len(index), dtype=torch.bool, device=self.device)
        # Row t + 1 opens an episode here: its memory is empty, and its noise is free for this evaluation.
        noise = self._noise(t + 1)
        noise = None if noise is None else noise[index]
        state = select_agent(self.state, index)
        return index, self.model.act(obs, never_first, state, noise=noise).value

    def _fill(self, last_value: Tensor, ended: list[tuple[int, FinalValues]]) -> None:
        """What follows from whole columns: the previous actions and rewards, and the next values."""
        rollout = self.rollout
        rollout.previous_action[1:], rollout.previous_reward[1:] = rollout.action[:-1], rollout.reward[:-1]
        rollout.next_value[:-1], rollout.next_value[-1] = rollout.value[1:], last_value
        for t, (index, values) in ended:
            rollout.next_value[t, index] = values
        rollout.next_value.masked_fill_(rollout.terminated, 0.0)

    def state_dict(self, environments: bool = True) -> dict[str, Any]:
        """What the next rollout needs, as plain tensors, numbers and text; `environments`: theirs too."""
        return {
            "core": [x.cpu() for x in self.state.core],
            "action": self.state.action.cpu(),
            "reward": self.state.reward.cpu(),
            "discounted": self.discounted.cpu(),
            "frames": self.frames,
            "episodes": self.episodes.state_dict(),
            "noise": None if self.rollout.noise is None else self.rollout.noise[-1].cpu(),
            "env": self.env.snapshot() if environments else None,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> bool:
        """Continue where `state_dict` was taken; False if the environments had to start anew."""
        self.frames = int(saved["frames"])
        self.episodes.load_state_dict(saved["episodes"])
        if saved["env"] is None or len(saved["action"]) != self.env.num_envs:
            self.episodes.abandon(np.ones(self.env.num_envs, dtype=bool))
            self.start()
            return False
        self.env.restore(saved["env"])
        self._see(self.env.last_obs, self.env.last_is_first, row=-1)
        if self.rollout.noise is not None:
            self.rollout.noise[-1] = saved["noise"]
        self.discounted = saved.get("discounted", self.discounted.cpu()).to(self.device)
        self.discounted[torch.from_numpy(self.env.last_is_first)] = 0.0
        # An environment that could not repeat its episode has opened a new one.
        self.episodes.abandon(self.env.last_is_first)
        stored, fresh = [x.to(self.device) for x in saved["core"]], self.state.core
        # What a state has gained since it was stored is as in a new episode.
        core = type(fresh)(*stored, *fresh[len(stored) :])
        self.state = AgentState(core, saved["action"].to(self.device), saved["reward"].to(self.device))
        return True


def draw_for_all(draw: Callable[[int], Tensor], count: int, ranks: Ranks) -> Tensor:
    """The rows of this rank's `count` environments out of draw(rows of all ranks).

    Every rank draws for the environments of all, so that an environment's draws do not depend on which rank
    owns it.
    """
    if ranks.count == 1:
        return draw(count)
    return draw(count * ranks.count)[count * ranks.rank : count * (ranks.rank + 1)]


def select_agent(state: AgentState, index: Tensor) -> AgentState:
    """The rows `index` of an agent's state."""
    return AgentState(select_state(state.core, index), state.action[index], state.reward[index])


def cut(columns: int, minibatches: int, how: str, generator: torch.Generator) -> tuple[Tensor, ...]:
    """One pass over `columns` environments in random order: the columns of every minibatch; `how`: random or even."""
    if how == "even":
        return split_evenly(columns, minibatches, generator)
    return torch.randperm(columns, generator=generator).tensor_split(minibatches)


def split_evenly(columns: int, minibatches: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Every stretch of `minibatches` neighbouring columns gives each minibatch one of them, at random.

    So ranks that own whole stretches have equal work in every minibatch, and the minibatches do not depend on
    how many ranks there are.
    """
    stretches = -(-columns // minibatches)
    places = torch.rand(stretches, minibatches, generator=generator).argsort(dim=1)
    chosen = places + minibatches * torch.arange(stretches)[:, None]
    return tuple(one[one < columns] for one in chosen.unbind(1))
