"""From Python: train an agent, load one, ask it for actions, save its step for another program.

    agent = train(TrainConfig(core="lstm", total_steps=100_000), env=MyEnv)      the agent, trained
    agent = Agent.load("runs/maze")                                              a run or a published agent
    action, state = agent.predict(observation, state, is_first, reward)          one step in your own loop
    agent.export("step.pt2")                                                     the same step, without this package

`env` is an id, a class or function that makes an environment, or an environment (copies of it are used).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from agents.config import TrainConfig
from agents.distributed import pick_device
from agents.evaluation import LoadedAgent, load_agent, play_episodes, report
from agents.model import ActorCritic, AgentState
from agents.play import Policy, choose
from agents.trainer import Trainer
from envs import EnvLike, make_single
from envs.door import Door
from envs.errors import UserError
from envs.make import make_plain
from envs.minigrid_arrays import MiniGridArrays
from memory import reset_state


def train(
    config: TrainConfig | None = None,
    env: EnvLike | None = None,
    resume: bool = False,
    console: Console | None = None,
    **options: Any,
) -> Agent:
    """Train to the end and return the agent. `options` are fields of the configuration that replace those given."""
    config = dataclasses.replace(config or TrainConfig(), **options)
    trainer = Trainer(config, resume, console, env=env)
    try:
        trainer.run()
    finally:
        trainer.close()
    return Agent.load(trainer.directory.path, env=env)


class Agent:
    """A trained agent and the environment it was trained for."""

    def __init__(self, loaded: LoadedAgent) -> None:
        self.loaded, self.model, self.config = loaded, loaded.model, loaded.config
        self.door = make_single(self.config.env, self.config.env_arguments())
        self.door.close()
        self._random = np.random.default_rng(0)

    @classmethod
    def load(
        cls,
        path: str | Path,
        checkpoint: str = "latest",
        device: str = "cpu",
        env: EnvLike | None = None,
    ) -> Agent:
        """The agent of a run directory, or a published one by name; `env` where the run was given no id."""
        return cls(load_agent(Path(path), checkpoint, pick_device(device), env))

    def make_env(self, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
        """The environment of the training as Gymnasium makes it, in its wrappers: what `predict` sees and answers."""
        return make_plain(self.config.env, self.config.env_arguments(), render_mode)

    def initial_state(self) -> AgentState:
        """What the agent carries into its first step."""
        return self.model.initial_state(1)

    @torch.no_grad()
    def predict(
        self,
        observation: Any,
        state: AgentState | None = None,
        is_first: bool = False,
        reward: float = 0.0,
        policy: Policy = "greedy",
        info: dict[str, Any] | None = None,
    ) -> tuple[Any, AgentState]:
        """The action for an observation, both in the environment's own form, and the state for the next call.

        `is_first`: the observation opens an episode, and the memory begins anew; no state means the same. `reward`
        is what the action before has earned. `info` is needed where it tells the legal actions.
        """
        before = self.initial_state() if state is None else state
        entering = before._replace(reward=torch.full_like(before.reward, reward))
        flat = self.door.observe(_as_arrays(observation, self.door), info or {})
        device = before.reward.device
        obs = {key: torch.as_tensor(np.asarray(value), device=device)[None] for key, value in flat.items()}
        first = torch.tensor([is_first or state is None], device=device)
        out = self.model.act(obs, first, entering)
        action = choose(out.policy, policy, [self._random])
        following = self.model.after(out.state, action, torch.zeros_like(before.reward))
        return self.door.actions.decode(self.model.actions.to_env(action)[0]), following

    def evaluate(self, episodes: int = 100, policy: Policy = "greedy", seed: int = 0) -> dict[str, Any]:
        """What `evaluate.py --json` writes of held-out episodes."""
        return report(self.loaded, play_episodes(self.loaded, episodes, policy, seed), policy, seed)

    def export(self, path: str | Path) -> ExportedStep:
        """Save one step with explicit state by torch.export (`torch.export.load(path).module()` plays it)."""
        if self.model.core.noise_shape is not None:
            raise UserError(f"the core {self.config.core} chooses at random and cannot be exported")
        step = ExportedStep(self.model)
        example = step.example(self.door)
        try:
            program = torch.export.export(step, example, strict=False)
        except Exception as error:
            raise UserError(
                f"the step of core {self.config.core} cannot be exported: {str(error).splitlines()[0]}"
            ) from error
        torch.export.save(program, str(path))
        return step


class ExportedStep(nn.Module):
    """One step as a function of tensors alone.

    (observations by key, is_first [1], previous action, previous reward [1], state of the core) -> (parameters of
    the policy, value, state of the core). The first state is all zeros.
    """

    def __init__(self, model: ActorCritic) -> None:
        super().__init__()
        self.model = model
        self.state_type = type(model.initial_state(1).core)

    def forward(
        self,
        obs: dict[str, Tensor],
        is_first: Tensor,
        action: Tensor,
        reward: Tensor,
        state: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        model = self.model
        core = reset_state(self.state_type(*state), is_first)
        output, following = model.core.step(model.encoder(obs, is_first, action, reward), core)
        policy, value = model.heads(output.features, obs)
        return policy.parameters, value, tuple(following)

    def example(self, door: Door) -> tuple[Any, ...]:
        """Arguments of the right shapes and types: the first step of an episode of zeros."""
        spaces: Any = door.observation_space
        obs = {
            key: torch.from_numpy(np.zeros((1, *(space.shape or ())), space.dtype))
            for key, space in spaces.items()
        }
        state = self.model.initial_state(1)
        # Copies: two inputs that are one tensor would be exported as one.
        return obs, torch.tensor([True]), state.action, state.reward, tuple(x.clone() for x in state.core)


def _as_arrays(observation: Any, door: Door) -> Any:
    """An observation of the environment's own as our wrappers inside the door pass it on."""
    env: Any = door.env
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, MiniGridArrays):
            return env.observation(observation)
        env = env.env
    return observation
