"""Evaluation on held-out episodes: every episode has its own seed, so any number of environments plays the same.

An episode is defined by (evaluation seed, episode number) alone: they give the seed of the environment and,
for the sampled policy, the random stream of the actions. No vector environment is involved, so no episode
is favoured for being short.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch

from agents.config import ARCHITECTURE, TrainConfig
from agents.distributions import ActionDistribution
from agents.episodes import is_success, success_rate
from agents.model import ActorCritic, AgentState, build_model
from agents.pretrained import WEIGHTS, find_agent, load_published_weights
from agents.rollout import select_agent
from agents.run_dir import RunDirectory, config_from_dict, load_checkpoint, load_weights, package_versions
from envs import held_out_seed, make_single, success_rule
from envs.door import told_success
from envs.errors import UserError

Policy = Literal["greedy", "sample"]


@dataclass(frozen=True)
class LoadedAgent:
    """An agent and where it comes from."""

    model: ActorCritic
    config: TrainConfig
    frames: int
    """Frames it was trained for."""
    checkpoint: str
    """Path of its checkpoint, or "untrained"."""


@dataclass(frozen=True)
class EpisodeResult:
    """One finished episode."""

    seed: int
    episode_return: float
    length: int
    success: float
    """1.0 or 0.0; NaN where the environment does not define success."""


def load_agent(run_dir: Path, checkpoint: str, device: torch.device) -> LoadedAgent:
    """The agent of a run: its `latest` or `best` checkpoint, one at a path, or an `untrained` twin.

    Of a published agent (`agents/pretrained.py`), `latest` is what was published.
    """
    run_dir = find_agent(run_dir)
    run = RunDirectory(run_dir)
    config = run.read_config(TrainConfig)
    if checkpoint == "untrained":
        return LoadedAgent(_fresh_model(config).to(device).eval(), config, 0, checkpoint)
    published = run_dir / WEIGHTS
    if checkpoint == "latest" and published.is_file():
        weights, frames = load_published_weights(published)
        model = _fresh_model(config)
        load_weights(model, weights, published)
        return LoadedAgent(model.to(device).eval(), config, frames, str(published))
    path = run.checkpoint(checkpoint) if checkpoint in ("latest", "best") else Path(checkpoint)
    if checkpoint == "best" and not path.is_file():
        raise UserError(
            f"no checkpoint at {path}: `best` is written once 100 episodes have ended; use latest"
        )
    content = load_checkpoint(path)
    stored = config_from_dict(TrainConfig, content["config"], str(path))
    for name in ARCHITECTURE:
        theirs, ours = getattr(stored, name), getattr(config, name)
        if theirs != ours:
            raise UserError(
                f"{path} is of another architecture: its --{name.replace('_', '-')} is {theirs!r}, "
                f"that of {run_dir} is {ours!r}"
            )
    model = _fresh_model(config)
    load_weights(model, content["model"], path)
    return LoadedAgent(model.to(device).eval(), config, content["frames"], str(path))


def moved_to(agent: LoadedAgent, env_id: str) -> LoadedAgent:
    """The agent for playing another environment with the same observations and actions."""
    config = dataclasses.replace(agent.config, env=env_id)
    there, here = (make_single(c.env, c.env_arguments()) for c in (config, agent.config))
    same = there.observation_space == here.observation_space
    same = same and there.agent_action_space == here.agent_action_space
    there.close()
    here.close()
    if not same:
        raise UserError(
            f"{env_id} has other observations or actions than {agent.config.env}, where the agent was trained"
        )
    return dataclasses.replace(agent, config=config)


def _fresh_model(config: TrainConfig) -> ActorCritic:
    env = make_single(config.env, config.env_arguments())
    model = build_model(config, env.observation_space, env.agent_action_space)
    env.close()
    return model


def choose(answer: ActionDistribution, policy: Policy, rngs: list[np.random.Generator]) -> torch.Tensor:
    """Actions [B, ...] of distributions [B, P]: the most probable ones, or draws with one stream per row."""
    return answer.mode() if policy == "greedy" else answer.draw(rngs)


def address_noise(model: ActorCritic, policy: Policy, rngs: list[np.random.Generator]) -> torch.Tensor | None:
    """What the memory's own choices are drawn with under the sampled policy; None: the most probable ones."""
    shape = model.core.noise_shape
    if policy == "greedy" or shape is None:
        return None
    return torch.from_numpy(np.stack([rng.gumbel(size=shape) for rng in rngs])).to(model.policy_head.weight)


def action_rng(seed: int, episode: int) -> np.random.Generator:
    """The random stream of one evaluation episode's choices."""
    return np.random.default_rng([seed, episode])


@dataclass
class _Slot:
    """One environment and the episode that it is playing."""

    env: gymnasium.Env[Any, Any]
    number: int
    rng: np.random.Generator
    obs: dict[str, Any]
    is_first: bool = True
    episode_return: float = 0.0
    length: int = 0


@torch.no_grad()
def play_episodes(
    agent: LoadedAgent,
    episodes: int,
    policy: Policy = "greedy",
    seed: int = 0,
    num_envs: int = 16,
    progress: Callable[[list[EpisodeResult]], None] = lambda results: None,
    between_steps: Callable[[AgentState], AgentState] = lambda state: state,
) -> list[EpisodeResult]:
    """Play episodes 0 .. episodes-1 on held-out levels, `num_envs` at a time; results in episode order.

    `between_steps` may change what the agents carry from a step to the next, as `recall.scores.intervene.FORGET` does.
    """
    config, model = agent.config, agent.model
    device = model.policy_head.weight.device
    envs = [make_single(config.env, config.env_arguments()) for _ in range(min(num_envs, episodes))]
    rule = success_rule(config.env, envs[0].metadata)
    slots = [_open(env, number, seed) for number, env in enumerate(envs)]
    coming = len(slots)
    state = model.initial_state(len(slots))
    done: dict[int, EpisodeResult] = {}
    while slots:
        obs = {key: _stack([slot.obs[key] for slot in slots], device) for key in slots[0].obs}
        is_first = torch.tensor([slot.is_first for slot in slots], device=device)
        rngs = [slot.rng for slot in slots]
        out = model.act(obs, is_first, state, noise=address_noise(model, policy, rngs))
        actions = choose(out.policy, policy, rngs)
        rewards, kept = [], []
        for row, (slot, action) in enumerate(zip(slots, model.actions.to_env(actions), strict=True)):
            slot.obs, reward, terminated, truncated, info = slot.env.step(action)
            slot.is_first = False
            slot.episode_return += float(reward)
            slot.length += 1
            rewards.append(float(reward))
            if terminated or truncated:
                success = is_success(rule, slot.episode_return, bool(terminated), told_success(info))
                result = EpisodeResult(
                    held_out_seed(seed, slot.number), slot.episode_return, slot.length, success
                )
                done[slot.number] = result
                progress(list(done.values()))
                if coming >= episodes:
                    slot.env.close()
                    continue
                slots[row] = _open(slot.env, coming, seed)
                coming += 1
            kept.append(row)
        state = between_steps(model.after(out.state, actions, torch.tensor(rewards, device=device)))
        if len(kept) < len(slots):
            slots = [slots[row] for row in kept]
            state = select_agent(state, torch.tensor(kept, dtype=torch.int64, device=device))
    return [done[number] for number in range(episodes)]


def _open(env: gymnasium.Env[Any, Any], number: int, seed: int) -> _Slot:
    obs, _ = env.reset(seed=held_out_seed(seed, number))
    return _Slot(env, number, action_rng(seed, number), obs)


def _stack(arrays: list[Any], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays)).to(device)


def bootstrap_interval(
    values: np.ndarray, level: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` [N] (fixed stream: same values, same interval)."""
    rng = np.random.default_rng(0)
    # In pieces of at most a million draws, so that many episodes do not fill the memory.
    pieces = np.array_split(np.arange(resamples), max(1, resamples * len(values) // 1_000_000))
    means = np.concatenate(
        [values[rng.integers(0, len(values), (len(piece), len(values)))].mean(axis=1) for piece in pieces]
    )
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def report(agent: LoadedAgent, results: list[EpisodeResult], policy: Policy, seed: int) -> dict[str, Any]:
    """Everything that `evaluate.py --json` writes."""
    returns = np.array([result.episode_return for result in results])
    successes = success_rate([result.success for result in results])
    low, high = bootstrap_interval(returns)
    return {
        "env": agent.config.env,
        "env_kwargs": agent.config.env_arguments(),
        "core": agent.config.core,
        "algo": agent.config.algo,
        "checkpoint": agent.checkpoint,
        "frames": agent.frames,
        "policy": policy,
        "episodes": len(results),
        "seeds": f"episode e of evaluation seed {seed} uses environment seed envs.held_out_seed({seed}, e): "
        f"{results[0].seed} .. {results[-1].seed}; held-out seeds are >= 2**30, training seeds below",
        "backend": "python (one environment per episode in play)",
        "success_rate": None if math.isnan(successes) else successes,
        "return_mean": float(returns.mean()),
        "return_interval_95": [low, high],
        "length_mean": float(np.mean([result.length for result in results])),
        "returns": returns.tolist(),
        "versions": package_versions(),
    }
