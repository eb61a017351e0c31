"""A peer of `side_by_side.py`: PPO of torch-ac on MiniGrid, with the settings of its starter files.

    pip install -e '.[bench]'

torch-ac leaves the network to its user; this one has the layers, sizes and first weights that rl-starter-files publish:
three 2 x 2 convolutions of the raw image (16, 32, 64 filters, a max-pooling after the first), then a policy and a
value, each with a hidden layer of 64 (tanh), their linear layers with normal rows of norm 1 and no bias. Without
memory, the default there. Its environments would run in processes of their own; here they share one, so that the
processor's time of a run is all in it. Same steps, same resets.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical

from envs import make_single
from envs.errors import UserError

ENVS = 16
"""Environments of the starter files; all else there is a default of torch_ac.PPOAlgo but for `recurrence`."""


class SerialEnv:
    """What torch-ac's ParallelEnv does, in one process: an episode that ends is followed by a reset."""

    def __init__(self, envs: Sequence[gymnasium.Env[Any, Any]], seed: int) -> None:
        self.envs, self.seed = envs, seed

    def reset(self) -> list[Any]:
        """First observations, of a seed for each environment."""
        return [env.reset(seed=self.seed + 10_000 * number)[0] for number, env in enumerate(self.envs)]

    def step(self, actions: NDArray[np.int64]) -> tuple[list[Any], ...]:
        """Observations, rewards, terminated, truncated and info, a list of each."""
        steps = [self._step(env, action) for env, action in zip(self.envs, actions, strict=True)]
        return tuple(list(values) for values in zip(*steps, strict=True))

    @staticmethod
    def _step(env: gymnasium.Env[Any, Any], action: np.int64) -> tuple[Any, ...]:
        obs, *rest = env.step(action)
        return (env.reset()[0] if rest[1] or rest[2] else obs, *rest)


def images(observations: Sequence[dict[str, Any]], device: Any = None) -> Tensor:
    """[B, 3, H, W] of a list of MiniGrid's observations."""
    stacked = np.array([obs["image"] for obs in observations])
    return torch.tensor(stacked, device=device, dtype=torch.float).movedim(-1, 1)


def start_linear(layer: nn.Module) -> None:
    """Rows of a linear layer: a random direction, norm 1; bias 0."""
    if isinstance(layer, nn.Linear):
        with torch.no_grad():
            layer.weight.copy_(nn.functional.normalize(torch.randn_like(layer.weight), dim=1))
            layer.bias.zero_()


def make_torch_ac(env_name: str, seed: int) -> Any:
    """torch_ac.PPOAlgo on `ENVS` environments, each an update of 128 steps."""
    chosen = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(None, force=True)  # type: ignore[arg-type, unused-ignore]
    try:  # its import chooses how processes start, which fails where that is chosen, and is undone here
        import torch_ac
        from torch_ac.algos import base
    except ImportError:
        raise UserError("torch-ac is not installed: pip install 'mnm-rl[bench]'") from None
    finally:
        multiprocessing.set_start_method(chosen, force=True)  # type: ignore[arg-type, unused-ignore]

    class Network(nn.Module, torch_ac.ACModel):  # type: ignore[misc, name-defined, unused-ignore]
        """Policy and value of an image."""

        def __init__(self, shape: tuple[int, ...], actions: int) -> None:
            super().__init__()
            self.image = nn.Sequential(
                nn.Conv2d(3, 16, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 2), nn.ReLU(),
                nn.Conv2d(32, 64, 2), nn.ReLU(), nn.Flatten(),
            )  # fmt: skip
            size = self.image(torch.zeros(1, 3, *shape[:2])).shape[1]
            self.policy, self.value = (
                nn.Sequential(nn.Linear(size, 64), nn.Tanh(), nn.Linear(64, out)) for out in (actions, 1)
            )
            self.apply(start_linear)

        def forward(self, image: Tensor) -> tuple[Categorical, Tensor]:
            embedding = self.image(image)
            return Categorical(logits=self.policy(embedding)), self.value(embedding).squeeze(1)

    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - torch-ac draws its minibatches from the global generator
    envs = [make_single(env_name) for _ in range(ENVS)]
    base.ParallelEnv = lambda envs: SerialEnv(envs, seed)
    shape = envs[0].observation_space["image"].shape  # type: ignore[index]
    actions = envs[0].action_space.n  # type: ignore[attr-defined]
    return torch_ac.PPOAlgo(envs, Network(shape, actions), recurrence=1, preprocess_obss=images)
