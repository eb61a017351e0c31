"""Agents trained elsewhere: any recurrent policy in PyTorch, played, evaluated and asked what it remembers.

    python evaluate.py --agent my_module:make_agent --env MiniGrid-MemoryS7-v0 --html recall.html
    python evaluate.py --agent sb3:model.zip --trust --env CartPole-v1                   (agents/sb3.py)

`make_agent(observation_space, action_space, **--agent-kwargs)` returns an object with two methods:

    initial_state(batch_size)            the state in which an episode opens: a tensor, or tuples, lists and dicts of
                                         tensors, batch first; None or () without memory
    step(obs, state, is_first)           (distribution, value, next state) for one step of B episodes

obs is a tensor [B, ...], or a dict of them where the environment shows several; it is on the device of the agent's
parameters. is_first bool [B] marks rows that open an episode; their state is already the initial one. The
distribution is a tensor of logits [B, A], or a `torch.distributions` object: Categorical, Bernoulli, Normal, an
Independent of these, or a tuple of them for several components. value is [B], [B, 1] or None. `step` must depend on
nothing but its arguments: recalls ask for it again with other states.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor, distributions, nn

from agents.config import TrainConfig
from agents.distributions import ActionDistribution, actions_for
from agents.evaluation import LoadedAgent
from agents.model import ActorCritic, ActOutput, AgentState
from agents.options import json_object
from agents.sb3 import load_sb3
from envs import make_single
from envs.door import Door
from envs.errors import EnvFault, UserError, first_line
from envs.user_modules import import_user_module


class StateOnly:
    """Stands where an agent of this toolkit has its memory core: nothing is known but that there is a state."""

    writes = addresses = False
    noise_shape = None


class Elsewhere:
    """An agent trained elsewhere behind the interface of `agents.model.ActorCritic`, as far as playing needs it."""

    after = staticmethod(ActorCritic.after)

    def __init__(self, agent: Any, env: Door, name: str, device: torch.device | None = None) -> None:
        """`name` is what error lines call it; `env` one of the environments that it is to play. Without `device` it
        lives where its parameters do."""
        for method in ("initial_state", "step"):
            if not callable(getattr(agent, method, None)):
                raise UserError(
                    f"{name} gives a {type(agent).__name__} without {method}(); expected initial_state and step"
                )
        self.agent, self.name, self.core = agent, name, StateOnly()
        self.actions = actions_for(env.agent_action_space)
        if isinstance(agent, nn.Module):
            agent.eval()
        self.device = device or next((p.device for p in _parameters(agent)), torch.device("cpu"))
        parts, self._rebuild = flatten(self._call("initial_state", lambda: agent.initial_state(2)))
        self._kind = namedtuple("ForeignState", [f"part{n}" for n in range(len(parts))])  # type: ignore[misc]

    def initial_state(self, batch_size: int) -> AgentState:
        """The state in which `batch_size` episodes open."""
        parts, _ = flatten(self._call("initial_state", lambda: self.agent.initial_state(batch_size)))
        for part in parts:
            if part.dim() == 0 or part.shape[0] != batch_size:
                raise self._fault(
                    f"initial_state({batch_size}) gives a tensor of shape {list(part.shape)}; expected the batch first"
                )
        none = self.actions.none(batch_size, self.device)
        return AgentState(self._kind(*parts), none, torch.zeros(batch_size, device=self.device))

    def act(
        self,
        obs: dict[str, Tensor],
        is_first: Tensor,
        state: AgentState,
        record: bool = False,
        noise: Tensor | None = None,
        copies: int = 1,
        intervention: None = None,
    ) -> ActOutput:
        """One row, as `ActorCritic.act`; with `copies` that many states see one and the same row."""
        if copies > 1:
            obs = {name: part.expand(copies, *part.shape[1:]) for name, part in obs.items()}
            is_first = is_first.expand(copies)
        core = state.core
        if len(core) and is_first.any():
            fresh = self.initial_state(len(is_first)).core
            core = self._kind(*(_where(is_first, a, b) for a, b in zip(fresh, core, strict=True)))
        seen = next(iter(obs.values())) if len(obs) == 1 else obs
        answer = self._call("step", lambda: self.agent.step(seen, self._rebuild(list(core)), is_first))
        if not isinstance(answer, tuple) or len(answer) != 3:
            raise self._fault(f"step gives {_shape_of(answer)}; expected (distribution, value, state)")
        given, value, following = answer
        parts, _ = flatten(following)
        shapes = [list(part.shape) for part in parts], [list(part.shape) for part in core]
        if shapes[0] != shapes[1]:
            raise self._fault(f"step gives a state of shapes {shapes[0]}, it was given one of {shapes[1]}")
        policy = self._policy(given, len(is_first))
        return ActOutput(
            policy, self._value(value, len(is_first)), state._replace(core=self._kind(*parts)), None
        )

    def _policy(self, given: Any, rows: int) -> ActionDistribution:
        parameters = parameters_of(given)
        if parameters is None:
            raise self._fault(
                f"step gives a {type(given).__name__} as its distribution; expected logits, or a Categorical, "
                "Bernoulli or Normal of torch.distributions"
            )
        if parameters.shape != (rows, self.actions.parameters):
            raise self._fault(
                f"step gives a distribution with parameters of shape {list(parameters.shape)}; this environment "
                f"asks for [{rows}, {self.actions.parameters}]"
            )
        if torch.isnan(parameters).any():
            raise self._fault("step gives a distribution with parameters that are not numbers")
        return self.actions.distribution(parameters.float())

    def _value(self, value: Any, rows: int) -> Tensor:
        if value is None:
            return torch.zeros(rows, device=self.device)
        found = torch.as_tensor(value, device=self.device)
        if found.numel() != rows:
            raise self._fault(f"step gives a value of shape {list(found.shape)}; expected [{rows}]")
        return found.detach().float().reshape(rows)

    def _call(self, method: str, run: Callable[[], Any]) -> Any:
        """Run one call of the agent; what it raises becomes one line."""
        try:
            return run()
        except (UserError, EnvFault):
            raise
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise self._fault(
                f"{method} raised {type(error).__name__}: {first_line(error)} ({Path(place.filename).name}, "
                f"line {place.lineno})"
            ) from error

    def _fault(self, what: str) -> UserError:
        return UserError(f"{self.name}: {what}")


def load_elsewhere(
    asked: str,
    env: TrainConfig,
    agent_kwargs: str,
    device: torch.device,
    trusted: bool = False,
) -> LoadedAgent:
    """The agent `module:make_agent` or `sb3:PATH.zip` for the environment that `env` names; raises UserError."""
    kwargs = json_object("agent-kwargs", agent_kwargs)
    single = make_single(env.env, env.env_arguments())
    try:
        if asked.startswith("sb3:"):
            path = Path(asked.removeprefix("sb3:"))
            policy = load_sb3(path, seen_space(single), single, kwargs, device, trusted)
            agent = Elsewhere(policy, single, asked, policy.device)
        else:
            agent = make_foreign(asked, single, kwargs, device)
    finally:
        single.close()
    agent.initial_state(2)
    model: Any = agent
    # What the reports call its core and its algorithm.
    config = dataclasses.replace(env, core=asked, algo="elsewhere")  # type: ignore[arg-type]
    return LoadedAgent(model, config, 0, asked, can_be_made_anew=False)


def make_foreign(asked: str, env: Door, kwargs: dict[str, Any], device: torch.device) -> Elsewhere:
    """The agent `module:make_agent`, called with the spaces of `env` and `kwargs`; raises UserError."""
    module_name, colon, function = asked.partition(":")
    if not colon or not function:
        raise UserError(
            f"--agent {asked!r}: write module:make_agent, such as my_module:make_agent, or sb3:PATH.zip"
        )
    module = import_user_module(module_name, asked)
    make = getattr(module, function, None)
    if not callable(make):
        names = ", ".join(name for name, what in vars(module).items() if callable(what) and name[0] != "_")
        raise UserError(
            f"--agent {asked}: {module_name} has no function {function!r}; it has {names or 'none'}"
        )
    try:
        agent = make(seen_space(env), env.agent_action_space, **kwargs)
        if isinstance(agent, nn.Module):
            agent = agent.to(device)
    except Exception as error:
        raise UserError(
            f"--agent {asked}: {function} raised {type(error).__name__}: {first_line(error)}"
        ) from error
    return Elsewhere(agent, env, asked)


def seen_space(env: Door) -> gymnasium.Space[Any]:
    """What an agent trained elsewhere sees: the one space, or a Dict where there are several."""
    assert isinstance(env.observation_space, spaces.Dict)
    entries = env.observation_space.spaces
    return next(iter(entries.values())) if len(entries) == 1 else env.observation_space


def flatten(state: Any) -> tuple[list[Tensor], Callable[[list[Tensor]], Any]]:
    """The tensors of a nested state in a row, and what puts such a row together again."""
    if isinstance(state, Tensor):
        return [state.detach()], lambda parts: parts.pop(0)
    if state is None:
        return [], lambda parts: None
    if not isinstance(state, (tuple, list, dict)):
        raise UserError(
            f"the state of an agent is a {type(state).__name__}; expected tensors, in tuples, lists or dicts"
        )
    flat = [flatten(part) for part in (state.values() if isinstance(state, dict) else state)]
    tensors = [tensor for found, _ in flat for tensor in found]

    def rebuild(parts: list[Tensor]) -> Any:
        made = [put(parts) for _, put in flat]
        if isinstance(state, dict):
            return dict(zip(state, made, strict=True))
        return getattr(type(state), "_make", type(state))(made)

    return tensors, rebuild


def parameters_of(given: Any) -> Tensor | None:
    """[B, P] the parameters that describe a distribution in `agents.distributions`; None if it is of no known kind.

    These are all logits in a row, then all means, then all log standard deviations.
    """
    rows: tuple[list[Tensor], ...] = ([], [], [])
    for part in given if isinstance(given, (tuple, list)) else [given]:
        base = part.base_dist if isinstance(part, distributions.Independent) else part
        if isinstance(base, Tensor):
            rows[0].append(base)
        elif isinstance(base, distributions.Categorical):
            rows[0].append(base.logits.flatten(1))
        elif isinstance(base, distributions.Bernoulli):
            rows[0].append(torch.stack([torch.zeros_like(base.logits), base.logits], dim=-1).flatten(1))
        elif isinstance(base, distributions.Normal):
            rows[1].append(base.loc.flatten(1))
            rows[2].append(base.scale.log().flatten(1))
        else:
            return None
    return torch.cat([part for kind in rows for part in kind], dim=-1).detach()


def _parameters(agent: Any) -> list[Tensor]:
    return list(agent.parameters()) if isinstance(agent, nn.Module) else []


def _where(rows: Tensor, there: Tensor, else_: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (there.dim() - 1)), there, else_)


def _shape_of(answer: Any) -> str:
    return f"a tuple of {len(answer)}" if isinstance(answer, tuple) else f"a {type(answer).__name__}"
