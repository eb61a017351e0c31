"""The learner: one rollout in, one update out, for A2C and PPO alike.

Minibatches are cut over environments, never over time: every sequence is a whole column of the rollout,
re-run from the state that entered row 0, with the same reset flags. A2C is one pass in one minibatch.

With several ranks a minibatch is cut from the columns of all of them, and each runs those that it owns. Its
loss is a mean over its own valid rows; times its share of the minibatch's valid rows, the gradients of all
ranks add up to that of the whole minibatch.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agents.config import TrainConfig
from agents.cuda_graphs import Graphs, capture_for
from agents.distributed import ALONE, Ranks
from agents.losses import (
    LossTerms,
    NewPolicy,
    Targets,
    a2c_loss,
    masked_mean,
    masked_variance,
    normalise,
    ppo_loss,
)
from agents.model import ActorCritic, UnrollOutput
from agents.returns import gae
from agents.rollout import Rollout

MEANS = ("policy_loss", "value_loss", "entropy", "meta_loss", "write_gain", "approx_kl", "clip_fraction")
"""What is logged as a mean over the valid rows of a minibatch."""


class Inputs(NamedTuple):
    """The fields of a `Rollout` that the loss looks at beside its targets."""

    obs: dict[str, Tensor]
    is_first: Tensor
    previous_action: Tensor
    previous_reward: Tensor
    core_state: Any
    noise: Tensor | None
    action: Tensor


class GraphLayout(NamedTuple):
    """How the tensors of a recorded minibatch are put together again."""

    keys: list[str]
    """Of the observation."""
    state: Any
    """The named tuple that is the core's state."""
    state_width: int
    """Number of its fields."""


class Learner:
    """Optimiser, schedules and minibatches around the two losses."""

    def __init__(
        self, model: ActorCritic, config: TrainConfig, generator: torch.Generator, ranks: Ranks = ALONE
    ) -> None:
        self.model, self.config, self.generator, self.ranks = model, config, generator, ranks
        self.parameters = list(model.parameters())
        device = model.policy_head.weight.device
        self.capture = capture_for(device, config.cuda_graphs, model.core.capturable)
        self.graphs: Graphs | None = None
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)
        is_ppo = config.algo == "ppo"
        self.epochs = config.epochs if is_ppo else 1
        self.minibatches = config.minibatches if is_ppo else 1

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Learn from one rollout; `progress` in [0, 1] drives the schedules. Returns what to log."""
        learning_rate = self.config.learning_rate * (1.0 - progress if self.config.anneal else 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.model.core.set_progress(progress)
        targets = self._targets(rollout)
        entropy_coef = self._entropy_coef(progress)
        rows = self.ranks.concatenate(rollout.valid.sum(dim=0, dtype=rollout.value.dtype))
        logs: list[dict[str, Tensor]] = []
        for _ in range(self.epochs):
            for index in self._cut(len(rows)):
                logs.append(self._minibatch(rollout, targets, index, rows, entropy_coef))
        valid, ranks = rollout.valid, self.ranks
        means = ranks.sum(torch.stack([torch.stack([log[name] for log in logs]) for name in MEANS]))
        residual = masked_variance(targets.returns - targets.value, valid, ranks)
        variance = masked_variance(targets.returns, valid, ranks)
        return {
            **{name: float(values.mean()) for name, values in zip(MEANS, means, strict=True)},
            "grad_norm": float(torch.stack([log["grad_norm"] for log in logs]).mean()),
            # Before the first optimiser step the policy is the one that acted: any deviation is a fault.
            "ratio_error_first": float(ranks.max(logs[0]["ratio_error"])),
            "explained_variance": float(1.0 - residual / variance.clamp(min=1e-8)),
            "learning_rate": learning_rate,
            "entropy_coef": entropy_coef,
        }

    def _targets(self, rollout: Rollout) -> Targets:
        config = self.config
        rewards = rollout.reward * config.reward_scale
        advantage = gae(
            rewards, rollout.value, rollout.next_value, rollout.done, config.gamma, config.gae_lambda
        )
        returns = advantage + rollout.value
        if config.normalize_advantages:
            advantage = normalise(advantage, rollout.valid, self.ranks)
        return Targets(rollout.log_prob, rollout.value, advantage, returns, rollout.valid)

    def _cut(self, columns: int) -> tuple[Tensor, ...]:
        """One pass over the columns of all ranks: the columns of every minibatch."""
        if self.config.minibatch_cut == "even":
            return cut_evenly(columns, self.minibatches, self.generator)
        return torch.randperm(columns, generator=self.generator).tensor_split(self.minibatches)

    def _minibatch(
        self, rollout: Rollout, targets: Targets, index: Tensor, rows: Tensor, entropy_coef: float
    ) -> dict[str, Tensor]:
        """One step of the optimiser on the columns `index` of all ranks, which hold `rows` [N] valid rows."""
        device, config = rollout.action.device, self.config
        own = self.ranks.share(len(rows))
        mine = index[(index >= own.start) & (index < own.stop)]
        self.optimizer.zero_grad(set_to_none=True)
        if len(mine):
            mine = mine.to(device)
            share = rows[mine].sum() / rows[index.to(device)].sum().clamp(min=1)
            mine = mine - own.start
            picked = Targets(*(x[:, mine] for x in targets))
            log = self._gradients(rollout.columns(mine), picked, entropy_coef, share)
        else:
            log = {name: rows.new_zeros(()) for name in (*MEANS, "ratio_error")}
        self.ranks.sum_gradients(self.parameters)
        log["grad_norm"] = nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm).detach()
        self.optimizer.step()
        return log

    def _gradients(
        self, rows: Rollout, picked: Targets, entropy_coef: float, share: Tensor
    ) -> dict[str, Tensor]:
        """`_backward`, as a graph where one can be recorded and has room for the resets in these rows."""
        if self.capture is None or int(rows.is_first[1:].sum()) > room_for_resets(rows.is_first):
            return self._backward(rows, picked, entropy_coef, share)
        if self.graphs is None:
            layout = GraphLayout(list(rows.obs), type(rows.core_state), len(rows.core_state))
            self.graphs = Graphs(partial(self._recorded, layout), self.capture)
        steps = (rows.is_first, rows.previous_action, rows.previous_reward, rows.action)
        entropy = torch.full_like(share, entropy_coef)
        found = self.graphs(share, entropy, *steps, *picked, *rows.core_state, *rows.obs.values())
        for parameter, gradient in zip(self.parameters, found, strict=False):
            parameter.grad = gradient
        return dict(zip((*MEANS, "ratio_error"), found[len(self.parameters) :], strict=True))

    def _recorded(
        self, layout: GraphLayout, share: Tensor, entropy_coef: Tensor, *rest: Tensor
    ) -> list[Tensor]:
        """`_backward` as a function of tensors alone: all gradients, then the log."""
        is_first, action, reward, chosen = rest[:4]
        ends = (4 + len(Targets._fields), 4 + len(Targets._fields) + layout.state_width)
        picked, state = Targets(*rest[4 : ends[0]]), layout.state._make(rest[ends[0] : ends[1]])
        obs = dict(zip(layout.keys, rest[ends[1] :], strict=True))
        inputs = Inputs(obs, is_first, action, reward, state, None, chosen)
        self.optimizer.zero_grad(set_to_none=True)
        core = self.model.core
        core.reset_capacity = room_for_resets(is_first)
        try:
            log = self._backward(inputs, picked, entropy_coef, share)
        finally:
            core.reset_capacity = None
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return [*gradients, *(log[name] for name in (*MEANS, "ratio_error"))]

    def _backward(
        self, rows: Rollout | Inputs, picked: Targets, entropy_coef: float | Tensor, share: Tensor
    ) -> dict[str, Tensor]:
        """The gradients of some columns, which hold this `share` of the minibatch's valid rows."""
        config = self.config
        out = self.model.unroll(
            rows.obs,
            rows.is_first,
            rows.previous_action,
            rows.previous_reward,
            rows.core_state,
            rows.noise,
        )
        new = evaluate_actions(out, rows.action)
        terms = self._loss_terms(new, picked)
        loss = (
            terms.policy
            + config.value_coef * terms.value
            - entropy_coef * terms.entropy
            + config.meta_coef * terms.meta
        )
        self._differentiate(share * loss)
        return self._log(terms, new, out, picked, share)

    @staticmethod
    def _differentiate(loss: Tensor) -> None:
        loss.backward()

    def _loss_terms(self, new: NewPolicy, targets: Targets) -> LossTerms:
        if self.config.algo == "ppo":
            return ppo_loss(new, targets, self.config.clip, self.config.value_clip)
        return a2c_loss(new, targets)

    @staticmethod
    @torch.no_grad()
    def _log(
        terms: LossTerms, new: NewPolicy, out: UnrollOutput, targets: Targets, share: Tensor
    ) -> dict[str, Tensor]:
        """What sums over the ranks to the means of the minibatch, and the largest error of the ratio."""
        ratio_error = torch.where(targets.valid, (new.log_prob - targets.log_prob).abs(), 0.0).max()
        write_gain = masked_mean(out.write_error, targets.valid) - terms.meta
        means = (terms.policy, terms.value, terms.entropy, terms.meta, write_gain, *terms[4:])
        return {
            **{name: share * mean for name, mean in zip(MEANS, means, strict=True)},
            "ratio_error": ratio_error,
        }

    def _entropy_coef(self, progress: float) -> float:
        start, end = self.config.entropy_coef, self.config.entropy_coef_final
        return start if end is None else start + (end - start) * progress

    def state_dict(self) -> dict[str, Any]:
        """Optimiser state and the random stream of the minibatches."""
        return {"optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"].cpu())


def room_for_resets(is_first: Tensor) -> int:
    """Resets after the first step that a graph for flags [T, B] has room for: episodes of 8 steps on average."""
    steps, columns = is_first.shape
    return columns * -(-steps // 8)


def evaluate_actions(out: UnrollOutput, action: Tensor) -> NewPolicy:
    """Log-probability and entropy of the current policy at the actions taken."""
    log_probs = torch.log_softmax(out.logits, dim=-1)
    log_prob = log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return NewPolicy(log_prob, entropy, out.value, out.meta_loss)


def cut_evenly(columns: int, minibatches: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Every stretch of `minibatches` neighbouring columns gives each minibatch one of them, at random.

    So ranks that own whole stretches have equal work in every minibatch, and the cut does not depend on
    how many ranks there are.
    """
    stretches = -(-columns // minibatches)
    places = torch.rand(stretches, minibatches, generator=generator).argsort(dim=1)
    chosen = places + minibatches * torch.arange(stretches)[:, None]
    return tuple(one[one < columns] for one in chosen.unbind(1))
