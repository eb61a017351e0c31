"""The learner: one rollout in, one update out, for A2C and PPO alike.

Minibatches are split over environments, never over time: every sequence is a whole column of the rollout,
re-run from the state that entered row 0, with the same reset flags. A2C is one pass in one minibatch.

With several ranks a minibatch is cut from the columns of all of them, and each runs those that it owns. Its
loss is a mean over its own valid rows; times its share of the minibatch's valid rows, the gradients of all
ranks add up to that of the whole minibatch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agents.config import TrainConfig
from agents.distributed import ALONE, Ranks
from agents.losses import NewPolicy, Targets, a2c_loss, masked_mean, masked_variance, normalise, ppo_loss
from agents.model import ActorCritic
from agents.optimizer import Adam
from agents.profile import region
from agents.returns import gae
from agents.rollout import Rollout, cut
from envs.errors import Diverged

MEANS = ("policy_loss", "value_loss", "entropy", "meta_loss", "write_gain", "approx_kl", "clip_fraction")
"""What is logged as a mean over the valid rows of a minibatch."""


class Learner:
    """Optimizer, schedules and minibatches around the two losses."""

    def __init__(
        self, model: ActorCritic, config: TrainConfig, generator: torch.Generator, ranks: Ranks = ALONE
    ) -> None:
        self.model, self.config, self.generator, self.ranks = model, config, generator, ranks
        self.parameters = list(model.parameters())
        self.optimizer = Adam(model.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)
        self.epochs, self.minibatches = config.passes()

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Learn from one rollout; `progress` in [0, 1] drives the schedules. Returns what to log."""
        config, ranks = self.config, self.ranks
        learning_rate = config.learning_rate * (1.0 - progress if config.anneal else 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        first, last = config.entropy_coef, config.entropy_coef_final
        entropy_coef = first if last is None else first + (last - first) * progress
        self.model.core.set_progress(progress)
        targets = self._targets(rollout)
        valid = ranks.concatenate(rollout.valid.sum(dim=0, dtype=rollout.value.dtype))
        logs: list[dict[str, Tensor]] = []
        passes = (
            columns
            for _ in range(self.epochs)
            for columns in cut(len(valid), self.minibatches, config.minibatch_cut, self.generator)
        )
        for columns in passes:
            logs.append(self._step(rollout, targets, columns, valid, entropy_coef))
            if self._moved_too_far(logs[-1]["approx_kl"]):
                break
        self.model.core.parameters_changed()
        means = ranks.sum(torch.stack([torch.stack([log[name] for log in logs]) for name in MEANS]))
        grad_norms = torch.stack([log["grad_norm"] for log in logs])
        self._check_finite(means, grad_norms)
        # Only now: until here the policy that learns had to see what the one that acted saw.
        self.model.encoder.count(rollout.obs, rollout.reward, rollout.valid, ranks)
        residual = masked_variance(targets.returns - targets.value, rollout.valid, ranks)
        variance = masked_variance(targets.returns, rollout.valid, ranks)
        return {
            **{name: float(values.mean()) for name, values in zip(MEANS, means, strict=True)},
            "grad_norm": float(grad_norms.mean()),
            # Before the first optimizer step the policy is the one that acted: any deviation is a fault.
            "ratio_error_first": float(ranks.max(logs[0]["ratio_error"])),
            "explained_variance": float(1.0 - residual / variance.clamp(min=1e-8)),
            "learning_rate": learning_rate,
            "entropy_coef": entropy_coef,
        }

    def _moved_too_far(self, approx_kl: Tensor) -> bool:
        """Whether the policy, as this minibatch saw it, is further from the one that acted than it may be.

        Where it is certain of its actions, a few steps at a constant rate can undo what it has learnt.
        """
        limit = self.config.target_kl
        return self.config.algo == "ppo" and limit > 0.0 and float(self.ranks.sum(approx_kl)) > limit

    def _targets(self, rollout: Rollout) -> Targets:
        """Advantages and returns of the whole rollout; constants of the update."""
        config = self.config
        scale = self.model.return_scale
        rewards = (rollout.reward if scale is None else scale.scaled(rollout.reward)) * config.reward_scale
        advantage = gae(
            rewards, rollout.value, rollout.next_value, rollout.done, config.gamma, config.gae_lambda
        )
        returns = advantage + rollout.value
        if config.normalize_advantages:
            advantage = normalise(advantage, rollout.valid, self.ranks)
        return Targets(rollout.log_prob, rollout.value, advantage, returns, rollout.valid)

    def _step(
        self, rollout: Rollout, targets: Targets, columns: Tensor, valid: Tensor, entropy_coef: float
    ) -> dict[str, Tensor]:
        """One optimizer step on `columns` of all ranks, of which column n holds valid[n] valid rows."""
        config, own = self.config, self.ranks.share(len(valid))
        mine = columns[(columns >= own.start) & (columns < own.stop)].to(valid.device)
        log = {name: valid.new_zeros(()) for name in (*MEANS, "ratio_error")}
        self.optimizer.zero_grad(set_to_none=True)
        if len(mine):
            share = valid[mine].sum() / valid[columns.to(valid.device)].sum().clamp(min=1)
            batch = rollout.columns(mine - own.start)
            picked = Targets(*(x[:, mine - own.start] for x in targets))
            inputs = (batch.obs, batch.is_first, batch.previous_action, batch.previous_reward)
            out = self.model.unroll(*inputs, batch.core_state, batch.noise)
            with region("losses"):
                new = NewPolicy(
                    out.policy.log_prob(batch.action), out.policy.entropy(), out.value, out.meta_loss
                )
                if config.algo == "ppo":
                    terms = ppo_loss(new, picked, config.clip, config.value_clip)
                else:
                    terms = a2c_loss(new, picked)
                loss = terms.total(config.value_coef, entropy_coef, config.meta_coef)
                gain = masked_mean(out.write_error, picked.valid) - terms.meta
                means = (terms.policy, terms.value, terms.entropy, terms.meta, gain, *terms[4:])
                log = {name: share * mean.detach() for name, mean in zip(MEANS, means, strict=True)}
                ratio_error = (new.log_prob.detach() - picked.log_prob).abs()
                log["ratio_error"] = ratio_error.where(picked.valid, 0.0).max()
            with region("backward"):
                (share * loss).backward()
        self.ranks.sum_gradients(self.parameters)
        log["grad_norm"] = nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm).detach()
        # The fused step reads this flag on the device: a gradient that is not finite changes nothing.
        self.optimizer.found_inf = (~log["grad_norm"].isfinite()).float()  # type: ignore[attr-defined]
        with region("optimizer"):
            self.optimizer.step()
        return log

    def _check_finite(self, means: Tensor, grad_norms: Tensor) -> None:
        """Raise Diverged if a gradient or weight of this update was not finite; the host asks once per update.

        Gradients and weights are the same on all ranks, so all of them stop.
        """
        weights = torch.stack([p.detach().isfinite().all() for p in self.parameters])
        if bool(weights.all() & grad_norms.isfinite().all()):
            return
        losses = [name for name, values in zip(MEANS, means, strict=True) if not values.isfinite().all()]
        what = f"the {losses[0].replace('_', ' ')}" if losses else "the gradient"
        if grad_norms.isfinite().all():
            what = "a weight"
        raise Diverged(f"{what} is not finite in this update; nothing of it was saved")

    def state_dict(self) -> dict[str, Any]:
        """Optimizer state and the random stream of the minibatches."""
        return {"optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"].cpu())
