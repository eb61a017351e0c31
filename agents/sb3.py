"""RecurrentPPO of sb3-contrib behind the protocol of `agents/elsewhere.py`: `--agent sb3:PATH.zip --trust`.

sb3-contrib is an optional install. Its zip files hold pickles, and loading one runs the code that it holds: hence
`--trust`. Used is the policy's public interface alone: `obs_to_tensor` (its preprocessing, images channels first),
`get_distribution` and `forward`. A VecNormalize file goes in --agent-kwargs '{"vec_normalize": "PATH.pkl"}': its
statistics of observations are applied, and returns stay those of the environment.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from envs.door import Door
from envs.errors import UserError, first_line

INSTALL = "python -m pip install sb3-contrib"
KNOWN = ("vec_normalize",)


class RecurrentPolicy:
    """States are the hidden and cell states of actor and critic, each [B, layers, size]."""

    def __init__(self, policy: Any, normalize: Any = None) -> None:
        self.policy, self.normalize, self.device = policy, normalize, torch.device(policy.device)
        layers, _, size = policy.lstm_hidden_state_shape
        self.shape = layers, size

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """Zeros, as sb3-contrib begins an episode."""
        zeros = torch.zeros(batch_size, *self.shape, device=self.device)
        return zeros, zeros, zeros, zeros

    def step(
        self, obs: Any, state: tuple[Tensor, ...], is_first: Tensor
    ) -> tuple[Any, Tensor, tuple[Tensor, ...]]:
        """The policy's distribution, its value and the next states of actor and critic."""
        from sb3_contrib.common.recurrent.type_aliases import RNNStates

        arrays = (
            {name: part.cpu().numpy() for name, part in obs.items()}
            if isinstance(obs, dict)
            else obs.cpu().numpy()
        )
        if self.normalize is not None:
            arrays = self.normalize.normalize_obs(arrays)
        seen, _ = self.policy.obs_to_tensor(arrays)
        actor_h, actor_c, critic_h, critic_c = (part.transpose(0, 1).contiguous() for part in state)
        starts = is_first.float()
        given, _ = self.policy.get_distribution(seen, (actor_h, actor_c), starts)
        states = RNNStates((actor_h, actor_c), (critic_h, critic_c))
        _, value, _, following = self.policy.forward(seen, states, starts, deterministic=True)
        parts = tuple(part.transpose(0, 1) for pair in (following.pi, following.vf) for part in pair)
        distribution = given.distribution
        return tuple(distribution) if isinstance(distribution, list) else distribution, value, parts


def load_sb3(
    path: Path,
    seen: gymnasium.Space[Any],
    env: Door,
    kwargs: dict[str, Any],
    device: torch.device,
    trusted: bool,
) -> RecurrentPolicy:
    """The agent in a zip of RecurrentPPO for `env`, of which it sees the space `seen`; raises UserError."""
    name = f"sb3:{path}"
    if not trusted:
        raise UserError(
            f"loading {path} runs code that it holds (pickles): add --trust if you know where it is from"
        )
    try:
        from sb3_contrib import RecurrentPPO
    except ImportError as error:
        raise UserError(f"{name} needs sb3-contrib ({first_line(error)}): {INSTALL}") from None
    for key in kwargs:
        if key not in KNOWN:
            raise UserError(f"{name}: unknown --agent-kwargs {key!r}; known: {', '.join(KNOWN)}")
    if not path.is_file():
        raise UserError(f"no file at {path}")
    try:
        model = RecurrentPPO.load(str(path), device=device)
    except Exception as error:
        raise UserError(f"{path} is not a saved RecurrentPPO ({first_line(error)})") from error
    _check_spaces(name, model, seen, env)
    normalize = None if "vec_normalize" not in kwargs else _statistics(Path(kwargs["vec_normalize"]))
    model.policy.set_training_mode(False)
    return RecurrentPolicy(model.policy, normalize)


def _check_spaces(name: str, model: Any, seen: gymnasium.Space[Any], env: Door) -> None:
    """Refuse an environment of other observations or actions, and policies whose actions are not as they seem."""
    theirs = model.observation_space
    last_first = getattr(theirs, "shape", None) and tuple(np.roll(theirs.shape, -1))
    if getattr(seen, "shape", None) not in (getattr(theirs, "shape", None), last_first):
        raise UserError(f"{name} was trained on {theirs}; {env.env_id} shows {seen}")
    acts = env.agent_action_space
    if (
        type(acts) is not type(model.action_space)
        or acts.shape != model.action_space.shape
        or (getattr(acts, "n", None) != getattr(model.action_space, "n", None))
    ):
        raise UserError(f"{name} acts in {model.action_space}; {env.env_id} asks for {acts}")
    if model.use_sde or model.policy.squash_output:
        raise UserError(f"{name}: policies with use_sde or squash_output are not supported")


def _statistics(path: Path) -> Any:
    """A saved VecNormalize."""
    try:
        with path.open("rb") as file:
            found = pickle.load(file)
    except Exception as error:
        raise UserError(f"{path} is not a saved VecNormalize ({first_line(error)})") from error
    if not hasattr(found, "normalize_obs"):
        raise UserError(f"{path} is not a saved VecNormalize, it holds a {type(found).__name__}")
    return found
