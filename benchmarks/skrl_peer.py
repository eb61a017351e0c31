"""skrl's PPO_RNN on our environments, with our network sizes: the second peer of `end_to_end.py`, where installed.

    pip install -e '.[bench]'

Observation, embedding and heads as in `sb3_peer.py`. skrl leaves the network to its user: here ONE LSTM for policy and
value, the policy's pass kept for the value as skrl's shared models do, and a sequence cut wherever an episode of the
minibatch ended, one call of the library's LSTM per piece. Minibatches are whole environments, as ours.

B environments of a minibatch, T steps, E embedding, H hidden size, S size of the observation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.distributions import Distribution

from agents.config import TrainConfig
from benchmarks.sb3_peer import make_flat
from envs.errors import UserError

LstmState = tuple[Tensor, Tensor]


class CpuEnvs(SyncVectorEnv):
    """Python environments in turn; skrl would otherwise move the observations to a GPU it finds."""

    device = torch.device("cpu")


@contextmanager
def skrl_defaults() -> Iterator[None]:
    """Importing skrl switches off the argument checks of all distributions; the other contestants keep theirs."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def lstm_over_episodes(
    lstm: nn.LSTM, x: Tensor, state: LstmState, is_last: Tensor
) -> tuple[Tensor, LstmState]:
    """Outputs [B, T, H] for x [B, T, E], the state [1, B, H] zeroed after every step with is_last [B, T]."""
    steps = x.shape[1]
    cuts = sorted({0, steps, *(is_last.any(dim=0).nonzero().flatten() + 1).tolist()})
    pieces = []
    for start, stop in pairwise(cuts):
        piece, (hidden, cell) = lstm(x[:, start:stop], state)
        keep = is_last[None, :, stop - 1, None].logical_not()
        state = (hidden * keep, cell * keep)
        pieces.append(piece)
    return torch.cat(pieces, dim=1), state


def make_model(config: TrainConfig, env: Any) -> Any:
    """Policy and value in one skrl model."""
    from skrl.models.torch import CategoricalMixin, Model

    class SharedModel(CategoricalMixin, Model):  # type: ignore[misc, unused-ignore]
        """Linear layer, ReLU, LSTM and two linear heads."""

        def __init__(self) -> None:
            Model.__init__(
                self, observation_space=env.observation_space, action_space=env.action_space, device="cpu"
            )
            CategoricalMixin.__init__(self)
            self.embedding = nn.Sequential(nn.Linear(self.num_observations, config.embedding_size), nn.ReLU())
            self.lstm = nn.LSTM(config.embedding_size, config.hidden_size, batch_first=True)
            self.policy_head = nn.Linear(config.hidden_size, self.num_actions)
            self.value_head = nn.Linear(config.hidden_size, 1)
            self.kept: Tensor | None = None

        def get_specification(self) -> dict[str, Any]:
            size = (1, config.num_envs, config.hidden_size)
            return {"rnn": {"sequence_length": config.rollout_steps, "sizes": [size, size]}}

        def features(self, inputs: dict[str, Any]) -> tuple[Tensor, LstmState]:
            """Rows [B * T, H]; T is 1 in acting, which has no flags, and the rollout in learning."""
            steps = config.rollout_steps if "terminated" in inputs else 1
            x = self.embedding(inputs["observations"]).unflatten(0, (-1, steps))
            hidden, cell = (
                part.unflatten(1, (-1, steps))[:, :, 0].contiguous() for part in inputs["rnn"]
            )  # skrl keeps a state for every row; the first one counts
            if steps == 1:
                y, state = self.lstm(x, (hidden, cell))
            else:
                is_last = (inputs["terminated"] | inputs["truncated"]).view(-1, steps)
                y, state = lstm_over_episodes(self.lstm, x, (hidden, cell), is_last)
            return y.flatten(0, 1), state

        def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
            """Logits, for the policy's `act`."""
            self.kept, state = self.features(inputs)
            return self.policy_head(self.kept), {"rnn": list(state)}

        def act(self, inputs: dict[str, Any], *, role: str = "") -> tuple[Tensor, dict[str, Any]]:
            if role == "policy":
                return CategoricalMixin.act(self, inputs, role=role)
            y = self.features(inputs)[0] if self.kept is None else self.kept
            self.kept = None
            return self.value_head(y), {}

    return SharedModel()


def make_trainer(config: TrainConfig) -> Any:
    """A trainer of PPO_RNN with the environments, rollout, epochs, minibatches and sizes of `config` (core lstm)."""
    try:
        from skrl.agents.torch.ppo import PPO_CFG, PPO_RNN
        from skrl.envs.wrappers.torch import wrap_env
        from skrl.memories.torch import RandomMemory
        from skrl.trainers.torch import SequentialTrainer
    except ImportError:
        raise UserError("skrl is not installed: pip install 'mnm-rl[bench]'") from None
    envs = CpuEnvs([lambda: make_flat(config)] * config.num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    env = wrap_env(envs, wrapper="gymnasium", verbose=False)
    model = make_model(config, env)
    settings = PPO_CFG(
        rollouts=config.rollout_steps,
        learning_epochs=config.epochs,
        mini_batches=config.minibatches,
        learning_rate=config.learning_rate,
        discount_factor=config.gamma,
        gae_lambda=config.gae_lambda,
        ratio_clip=config.clip,
        value_clip=0.0,
        entropy_loss_scale=config.entropy_coef,
        value_loss_scale=config.value_coef,
        grad_norm_clip=config.max_grad_norm,
        time_limit_bootstrap=True,
    )
    settings.experiment.write_interval = settings.experiment.checkpoint_interval = 0
    agent = PPO_RNN(
        models={"policy": model, "value": model},
        memory=RandomMemory(memory_size=config.rollout_steps, num_envs=config.num_envs, device="cpu"),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device="cpu",
        cfg=settings,
    )
    one_rollout = {
        "timesteps": config.rollout_steps, "headless": True, "disable_progressbar": True,
        "close_environment_at_exit": False,
    }  # fmt: skip
    return SequentialTrainer(env=env, agents=agent, cfg=one_rollout)


class SkrlRun:
    """One PPO_RNN that trains update by update."""

    def __init__(self, config: TrainConfig) -> None:
        torch.set_num_threads(config.threads)
        with skrl_defaults():
            self.trainer = make_trainer(config)
        self.frames_per_update = config.num_envs * config.rollout_steps

    def advance(self) -> int:
        """One rollout and one update; returns the frames played."""
        with skrl_defaults():
            self.trainer.train()
        return self.frames_per_update

    def close(self) -> None:
        """Release the environments."""
        self.trainer.env.close()
