"""The third peer of `end_to_end.py`: PPO with an LSTM of TorchRL, on our environments and sizes.

    pip install -e '.[bench]'

The observation and the network are those of the other peers (`peers.py`). TorchRL leaves the loop of an update to its
user; all parts are the library's: SerialEnv with InitTracker and the LSTM's primer, Collector, GAE, ClipPPOLoss. GAE
calls the network on a whole rollout and on its next observations; the loss runs embedding and LSTM once for policy and
value. Both are in recurrent mode, in which the LSTM splits its sequences wherever an episode began. Minibatches are
whole environments, as ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributions import Categorical

from agents.config import TrainConfig
from benchmarks.speed.peers import make_flat, without_checks
from envs.errors import UserError

LEARNED_FROM = (
    "observation", "is_init", "recurrent_state_h", "recurrent_state_c", "action", "action_log_prob", "advantage",
    "value_target",
)  # fmt: skip
"""What the loss reads. The rest stays behind, above all the outputs of the layers in acting: they are out of date."""


@dataclass(frozen=True)
class TorchRLParts:
    """What `TorchRLRun` trains with."""

    collector: Any
    policy: Any
    """Embedding, LSTM and policy head; acts and is learned."""
    advantage: Any
    loss: Any
    optimizer: torch.optim.Optimizer


def make_torchrl(config: TrainConfig) -> TorchRLParts:
    """The parts, with the environments, rollout, clipping and sizes of `config` (core lstm)."""
    try:
        from tensordict.nn import TensorDictModule, TensorDictSequential
        from torchrl.collectors import Collector
        from torchrl.envs import Compose, GymWrapper, InitTracker, SerialEnv, TransformedEnv
        from torchrl.modules import LSTMModule, ProbabilisticActor, ValueOperator
        from torchrl.objectives import ClipPPOLoss
        from torchrl.objectives.value import GAE
    except ImportError:
        raise UserError("torchrl is not installed: pip install 'mnm-rl[bench]'") from None
    torch.manual_seed(config.seed)
    envs = SerialEnv(config.num_envs, lambda: GymWrapper(make_flat(config), categorical_action_encoding=True))
    size, actions = envs.observation_spec["observation"].shape[-1], envs.action_spec_unbatched.n
    embedding = TensorDictModule(
        nn.Sequential(nn.Linear(size, config.embedding_size), nn.ReLU()), ["observation"], ["embedding"]
    )
    lstm = LSTMModule(config.embedding_size, config.hidden_size, in_key="embedding", out_key="features")
    logits = TensorDictModule(nn.Linear(config.hidden_size, actions), ["features"], ["logits"])
    value = ValueOperator(nn.Linear(config.hidden_size, 1), in_keys=["features"])
    policy = ProbabilisticActor(
        TensorDictSequential(embedding, lstm, logits),
        in_keys=["logits"],
        distribution_class=Categorical,
        return_log_prob=True,
    )
    env = TransformedEnv(envs, Compose(InitTracker(), lstm.make_tensordict_primer()))
    env.set_seed(config.seed)
    loss = ClipPPOLoss(
        policy,
        value,  # the head alone: it takes the features that the policy's pass has just left
        clip_epsilon=config.clip,
        entropy_coeff=config.entropy_coef,
        critic_coeff=config.value_coef,
        loss_critic_type="l2",
        normalize_advantage=config.normalize_advantages,
    )
    return TorchRLParts(
        collector=Collector(
            env, policy, frames_per_batch=config.num_envs * config.rollout_steps, total_frames=-1
        ),
        policy=policy,
        advantage=GAE(
            gamma=config.gamma,
            lmbda=config.gae_lambda,
            value_network=TensorDictSequential(embedding, lstm, value),
            deactivate_vmap=True,  # vmap cannot take an LSTM
        ),
        loss=loss,
        optimizer=torch.optim.Adam(loss.parameters(), lr=config.learning_rate, eps=1e-5),
    )


class TorchRLRun:
    """One PPO of TorchRL that trains update by update."""

    def __init__(self, config: TrainConfig) -> None:
        torch.set_num_threads(config.threads)
        self.config = config
        with without_checks():
            self.parts = make_torchrl(config)
        self.rollouts: Iterator[Any] = iter(self.parts.collector)

    def advance(self) -> int:
        """One rollout and one update; returns the frames played."""
        with without_checks():
            rollout = next(self.rollouts)
            self.learn(rollout)
        return int(rollout.numel())

    def learn(self, rollout: Any) -> list[Any]:
        """One update from a rollout [N, T]; returns the losses of every minibatch."""
        from torchrl.modules import set_recurrent_mode

        epochs, minibatches = self.config.passes()
        losses = []
        with set_recurrent_mode(True):
            with torch.no_grad():
                self.parts.advantage(rollout)
            data = rollout.select(*LEARNED_FROM)
            for _ in range(epochs):
                for rows in torch.randperm(len(data)).tensor_split(minibatches):
                    losses.append(self.parts.loss(data[rows]))
                    self.step(losses[-1])
        return losses

    def step(self, losses: Any) -> None:
        """One step of Adam down the sum of the three losses."""
        parts = self.parts
        parts.optimizer.zero_grad()
        (losses["loss_objective"] + losses["loss_entropy"] + losses["loss_critic"]).backward()
        nn.utils.clip_grad_norm_(parts.loss.parameters(), self.config.max_grad_norm)
        parts.optimizer.step()

    def close(self) -> None:
        """Release the environments."""
        self.parts.collector.shutdown()
