"""Evaluation on held-out episodes: every episode has its own seed, so any number of environments plays the same.

An episode is defined by (evaluation seed, episode number) alone: they give the seed of the environment and,
for the sampled policy, the random stream of the actions. No vector environment is involved, so no episode
is favoured for being short.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.checkpoint import load_checkpoint, load_weights
from agents.config import ARCHITECTURE, MOST_STEPS, TrainConfig
from agents.episodes import is_success, success_rate
from agents.files import refusing
from agents.metrics import read_metrics
from agents.model import ActorCritic, AgentState, build_model
from agents.play import Moment, Observer, Opening, Policy, play
from agents.pretrained import WEIGHTS, find_agent, load_published_weights
from agents.run_dir import RunDirectory, announce_modules, config_from_dict, package_versions
from envs import EnvLike, held_out_seed, id_of, make_single, success_rule
from envs.door import told_success
from envs.errors import UserError
from envs.make import OUR_KWARGS

FAR_LESS = 0.2
"""Success that greedy play may lack before a line says what else to try."""


@dataclass(frozen=True)
class LoadedAgent:
    """An agent and where it comes from."""

    model: ActorCritic
    config: TrainConfig
    frames: int
    """Frames it was trained for."""
    checkpoint: str
    """Path of its checkpoint, or "untrained"."""
    can_be_made_anew: bool = True
    """Whether its architecture can be built again with fresh weights."""


@dataclass(frozen=True)
class EpisodeResult:
    """One finished episode."""

    seed: int
    episode_return: float
    length: int
    success: float
    """1.0 or 0.0; NaN where the environment does not define success."""
    cut: bool = False
    """Whether it was ended after the most steps that an episode may take."""
    actions: tuple[Any, ...] = ()
    """What was done, in the agent's own form; only if `play_episodes` was asked to keep it."""


def load_agent(
    run_dir: Path, checkpoint: str, device: torch.device, env: EnvLike | None = None
) -> LoadedAgent:
    """The agent of a run: its `latest` or `best` checkpoint, one at a path, or an `untrained` twin.

    Of a published agent (`agents/pretrained.py`), `latest` is what was published. `env`: what a Python program gives
    instead of the stored id.
    """
    run_dir = find_agent(run_dir)
    run = RunDirectory(run_dir)
    config = stored_config = run.read_config(TrainConfig)
    run.find_modules()
    if env is not None:
        config = dataclasses.replace(config, env=id_of(env))
    else:
        announce_modules(stored_config, run_dir)
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
    with refusing(path):
        frames = int(content["frames"])
        stored = config_from_dict(TrainConfig, content["config"], str(path))
    for name in ARCHITECTURE:
        theirs, ours = getattr(stored, name), getattr(stored_config, name)
        if theirs != ours:
            raise UserError(
                f"{path} is of another architecture: its --{name.replace('_', '-')} is {theirs!r}, "
                f"that of {run_dir} is {ours!r}"
            )
    model = _fresh_model(config)
    load_weights(model, content["model"], path)
    return LoadedAgent(model.to(device).eval(), config, frames, str(path))


def moved_to(
    agent: LoadedAgent, env_id: str | None = None, env_kwargs: dict[str, Any] | None = None
) -> LoadedAgent:
    """The agent for playing another environment, or its own with other arguments; it must look and act the same.

    Stored arguments belong to the environment of the training: to another one only those go along that say what the
    agent sees and does (`OUR_KWARGS`).
    """
    config = agent.config
    stored = json.loads(config.env_kwargs)
    if env_id is not None and env_id != config.env:
        stored = {name: value for name, value in stored.items() if name in OUR_KWARGS}
    kwargs = json.dumps(stored | (env_kwargs or {}))
    config = dataclasses.replace(config, env=env_id or config.env, env_kwargs=kwargs)
    there, here = (make_single(c.env, c.env_arguments()) for c in (config, agent.config))
    same = there.observation_space == here.observation_space
    same = same and there.agent_action_space == here.agent_action_space
    there.close()
    here.close()
    if not same:
        raise UserError(
            f"{config.env} {config.env_kwargs} has other observations or actions than {agent.config.env} "
            f"{agent.config.env_kwargs}, where the agent was trained"
        )
    return dataclasses.replace(agent, config=config)


def _fresh_model(config: TrainConfig) -> ActorCritic:
    env = make_single(config.env, config.env_arguments())
    model = build_model(config, env.observation_space, env.agent_action_space)
    env.close()
    return model


def action_rng(seed: int, episode: int) -> np.random.Generator:
    """The random stream of one evaluation episode's choices."""
    return np.random.default_rng([seed, episode])


@dataclass
class _Results(Observer):
    """Notes return, length and success of every episode that ends."""

    seeds: list[int]
    rule: str | None
    progress: Callable[[list[EpisodeResult]], None]
    keep_actions: bool
    actions: dict[int, list[Any]] = field(default_factory=dict)
    returns: dict[int, float] = field(default_factory=dict)
    done: dict[int, EpisodeResult] = field(default_factory=dict)

    def after(self, moment: Moment) -> None:
        number = moment.episode
        total = self.returns.get(number, 0.0) + moment.reward
        self.returns[number] = total
        if self.keep_actions:
            self.actions.setdefault(number, []).append(moment.action)
        if moment.done:
            success = is_success(self.rule, total, moment.terminated, told_success(moment.info))
            self.done[number] = EpisodeResult(
                self.seeds[number],
                total,
                moment.t + 1,
                success,
                moment.cut,
                tuple(self.actions.pop(number, ())),
            )
            self.progress(list(self.done.values()))


def play_episodes(
    agent: LoadedAgent,
    episodes: int,
    policy: Policy = "greedy",
    seed: int = 0,
    num_envs: int = 16,
    progress: Callable[[list[EpisodeResult]], None] = lambda results: None,
    between_steps: Callable[[AgentState], AgentState] = lambda state: state,
    most_steps: int = MOST_STEPS,
    keep_actions: bool = False,
) -> list[EpisodeResult]:
    """Play episodes 0 .. episodes-1 on held-out levels, `num_envs` at a time; results in episode order.

    `between_steps` and `most_steps` are those of `agents.play.play`.
    """
    config = agent.config
    envs = [make_single(config.env, config.env_arguments()) for _ in range(min(num_envs, episodes))]
    openings = [Opening(held_out_seed(seed, n), action_rng(seed, n)) for n in range(episodes)]
    rule = success_rule(config.env, envs[0].metadata)
    results = _Results([opening.seed for opening in openings], rule, progress, keep_actions)
    play(agent.model, envs, openings, policy, results, False, between_steps, most_steps)
    for env in envs:
        env.close()
    return [results.done[number] for number in range(episodes)]


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
    success = np.array([result.success for result in results])
    successes = success_rate(success.tolist())
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
        "success_interval_95": None if np.isnan(success).any() else list(bootstrap_interval(success)),
        "return_mean": float(returns.mean()),
        "return_interval_95": [low, high],
        "episodes_cut": sum(result.cut for result in results),
        "length_mean": float(np.mean([result.length for result in results])),
        "returns": returns.tolist(),
        "versions": package_versions(),
    }


def why_so_low(run_dir: Path, success: float) -> str:
    """A line where greedy play succeeds far less often than the agent did at the end of its training; else empty."""
    path = find_agent(run_dir) / "metrics.csv"
    rows = read_metrics(path) if path.is_file() else []
    trained = rows[-1].get("success_rate", math.nan) if rows else math.nan
    if not trained > success + FAR_LESS:
        return ""
    return f"in training, with drawn actions, it was {trained:.3f}: greedy play can go in circles (--policy sample)"
