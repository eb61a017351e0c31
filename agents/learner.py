"""The learner: one rollout in, one update out, for A2C and PPO alike.

Minibatches are cut over environments, never over time: every sequence is a whole column of the rollout,
re-run from the state that entered row 0, with the same reset flags. A2C is one pass in one minibatch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agents.config import TrainConfig
from agents.losses import LossTerms, NewPolicy, Targets, a2c_loss, masked_mean, normalise, ppo_loss
from agents.model import ActorCritic, UnrollOutput
from agents.returns import gae
from agents.rollout import Rollout


class Learner:
    """Optimiser, schedules and minibatches around the two losses."""

    def __init__(self, model: ActorCritic, config: TrainConfig, generator: torch.Generator) -> None:
        self.model, self.config, self.generator = model, config, generator
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, eps=1e-5)
        is_ppo = config.algo == "ppo"
        self.epochs = config.epochs if is_ppo else 1
        self.minibatches = config.minibatches if is_ppo else 1

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Learn from one rollout; `progress` in [0, 1] drives the schedules. Returns what to log."""
        learning_rate = self.config.learning_rate * (1.0 - progress if self.config.anneal else 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        targets = self._targets(rollout)
        entropy_coef = self._entropy_coef(progress)
        columns = rollout.action.shape[1]
        logs: list[dict[str, Tensor]] = []
        for _ in range(self.epochs):
            order = torch.randperm(columns, generator=self.generator)
            for index in order.tensor_split(self.minibatches):
                logs.append(self._minibatch(rollout, targets, index.to(rollout.action.device), entropy_coef))
        mean = {name: float(torch.stack([log[name] for log in logs]).mean()) for name in logs[0]}
        # Before the first optimiser step the policy is the one that acted: any deviation is a fault.
        mean["ratio_error_first"] = float(logs[0]["ratio_error"])
        mean.pop("ratio_error")
        valid = rollout.valid
        residual = masked_variance(targets.returns - targets.value, valid)
        variance = masked_variance(targets.returns, valid)
        return {
            **mean,
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
            advantage = normalise(advantage, rollout.valid)
        return Targets(rollout.log_prob, rollout.value, advantage, returns, rollout.valid)

    def _minibatch(
        self, rollout: Rollout, targets: Targets, index: Tensor, entropy_coef: float
    ) -> dict[str, Tensor]:
        config = self.config
        rows = rollout.columns(index)
        picked = Targets(*(x[:, index] for x in targets))
        out = self.model.unroll(
            rows.obs, rows.is_first, rows.previous_action, rows.previous_reward, rows.core_state
        )
        new = evaluate_actions(out, rows.action)
        terms = self._loss_terms(new, picked)
        loss = (
            terms.policy
            + config.value_coef * terms.value
            - entropy_coef * terms.entropy
            + config.meta_coef * terms.meta
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        self.optimizer.step()
        return self._log(terms, new, out, picked, grad_norm)

    def _loss_terms(self, new: NewPolicy, targets: Targets) -> LossTerms:
        if self.config.algo == "ppo":
            return ppo_loss(new, targets, self.config.clip, self.config.value_clip)
        return a2c_loss(new, targets)

    @staticmethod
    @torch.no_grad()
    def _log(
        terms: LossTerms, new: NewPolicy, out: UnrollOutput, targets: Targets, grad_norm: Tensor
    ) -> dict[str, Tensor]:
        ratio_error = torch.where(targets.valid, (new.log_prob - targets.log_prob).abs(), 0.0).max()
        write_error = masked_mean(out.write_error, targets.valid)
        return {
            "policy_loss": terms.policy.detach(),
            "value_loss": terms.value.detach(),
            "entropy": terms.entropy.detach(),
            "meta_loss": terms.meta.detach(),
            "write_gain": write_error - terms.meta.detach(),
            "approx_kl": terms.approx_kl,
            "clip_fraction": terms.clip_fraction,
            "grad_norm": grad_norm.detach(),
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


def evaluate_actions(out: UnrollOutput, action: Tensor) -> NewPolicy:
    """Log-probability and entropy of the current policy at the actions taken."""
    log_probs = torch.log_softmax(out.logits, dim=-1)
    log_prob = log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return NewPolicy(log_prob, entropy, out.value, out.meta_loss)


def masked_variance(x: Tensor, valid: Tensor) -> Tensor:
    """Variance of x over its valid rows."""
    return masked_mean((x - masked_mean(x, valid)).square(), valid)
