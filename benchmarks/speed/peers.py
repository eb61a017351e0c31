"""Peers of `end_to_end.py`: RecurrentPPO of sb3-contrib and PPO_RNN of skrl, on our environments and sizes.

    pip install -e '.[bench]'

Their observation is a flat one-hot vector of the image's categories and the direction, because they take numbers
only. A linear layer and a ReLU of the embedding size come first, as ours; then ONE LSTM shared by policy and value,
then two linear heads. skrl leaves the network to its user: here the policy's pass is kept for the value as skrl's
shared models do, and a sequence is split wherever an episode of the minibatch ended, one call of the library's LSTM
per piece. Minibatches are whole environments, as ours.

B environments of a minibatch, T steps, E embedding, H hidden size, S size of the observation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution

from agents.config import TrainConfig
from envs import make_single
from envs.errors import UserError

LstmState = tuple[Tensor, Tensor]


class FlatOneHot(gymnasium.ObservationWrapper[NDArray[np.float32], Any, Any]):
    """Image and direction as one float vector of zeros and ones; the mission is one sentence here and is left out."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        image, direction = env.observation_space["image"], env.observation_space["direction"]
        assert isinstance(image, spaces.MultiDiscrete)
        assert isinstance(direction, spaces.Discrete)
        counts = np.append(image.nvec.reshape(-1), direction.n)
        self._starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._size = int(counts.sum())
        self.observation_space = spaces.Box(0.0, 1.0, (self._size,), np.float32)

    def observation(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        values = np.append(observation["image"].reshape(-1), observation["direction"])
        flat = np.zeros(self._size, dtype=np.float32)
        flat[self._starts + values] = 1.0
        return flat


def make_flat(config: TrainConfig) -> FlatOneHot:
    """One environment of `config` for a peer."""
    return FlatOneHot(make_single(config.env, config.env_arguments()))


def make_sb3(config: TrainConfig) -> Any:
    """A RecurrentPPO with the environments, rollout, epochs, minibatches and sizes of `config` (core lstm)."""
    try:
        from sb3_contrib import RecurrentPPO
        from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
        from stable_baselines3.common.vec_env import DummyVecEnv
    except ImportError:
        raise UserError("sb3-contrib is not installed: pip install 'mnm-rl[bench]'") from None

    class Embedding(BaseFeaturesExtractor):  # type: ignore[misc, unused-ignore]
        """Linear layer and ReLU."""

        def __init__(self, space: spaces.Box, size: int) -> None:
            super().__init__(space, size)
            self.layers = nn.Sequential(nn.Linear(int(np.prod(space.shape)), size), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    return RecurrentPPO(
        "MlpLstmPolicy",
        DummyVecEnv([lambda: make_flat(config)] * config.num_envs),
        learning_rate=config.learning_rate,
        n_steps=config.rollout_steps,
        batch_size=config.num_envs * config.rollout_steps // config.passes()[1],
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip,
        ent_coef=config.entropy_coef,
        vf_coef=config.value_coef,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        device="cpu",
        policy_kwargs={
            "features_extractor_class": Embedding,
            "features_extractor_kwargs": {"size": config.embedding_size},
            "net_arch": [],
            "lstm_hidden_size": config.hidden_size,
            "shared_lstm": True,
            "enable_critic_lstm": False,
            "optimizer_kwargs": {"eps": 1e-5},
        },
    )


class Sb3Run:
    """One RecurrentPPO that trains update by update."""

    def __init__(self, config: TrainConfig) -> None:
        torch.set_num_threads(config.threads)
        self.agent = make_sb3(config)
        self.frames_per_update = config.num_envs * config.rollout_steps

    def advance(self) -> int:
        """One rollout and one update; returns the frames played."""
        self.agent.learn(self.frames_per_update, log_interval=None, reset_num_timesteps=False)
        return self.frames_per_update

    def close(self) -> None:
        """Release the environments."""
        self.agent.get_env().close()


class CpuEnvs(SyncVectorEnv):
    """Python environments in turn; skrl would otherwise move the observations to a GPU it finds."""

    device = torch.device("cpu")


@contextmanager
def without_checks() -> Iterator[None]:
    """Importing skrl or TorchRL ends the argument checks of all distributions; the other contestants keep theirs."""
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


def make_skrl_model(config: TrainConfig, env: Any) -> Any:
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


def make_skrl(config: TrainConfig) -> Any:
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
    model = make_skrl_model(config, env)
    settings = PPO_CFG(
        rollouts=config.rollout_steps,
        learning_epochs=config.epochs,
        mini_batches=config.passes()[1],
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
        with without_checks():
            self.trainer = make_skrl(config)
        self.frames_per_update = config.num_envs * config.rollout_steps

    def advance(self) -> int:
        """One rollout and one update; returns the frames played."""
        with without_checks():
            self.trainer.train()
        return self.frames_per_update

    def close(self) -> None:
        """Release the environments."""
        self.trainer.env.close()
