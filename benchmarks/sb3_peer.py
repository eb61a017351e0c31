"""sb3-contrib's RecurrentPPO on our environments, with our network sizes: the peer of `end_to_end.py`.

    pip install -e '.[bench]'

Its observation is a flat one-hot vector of the image's categories and the direction, because it takes numbers only.
A linear layer and a ReLU of the embedding size come first, as ours; then ONE LSTM shared by policy and value, then
two linear heads.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.config import TrainConfig
from envs import make_single
from envs.errors import UserError


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


def make_peer(config: TrainConfig) -> Any:
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
        batch_size=config.num_envs * config.rollout_steps // config.minibatches,
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
        self.agent = make_peer(config)
        self.frames_per_update = config.num_envs * config.rollout_steps

    def advance(self) -> int:
        """One rollout and one update; returns the frames played."""
        self.agent.learn(self.frames_per_update, log_interval=None, reset_num_timesteps=False)
        return self.frames_per_update

    def close(self) -> None:
        """Release the environments."""
        self.agent.get_env().close()
