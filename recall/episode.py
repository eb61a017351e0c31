"""Play an episode with the tape running, and render what was recalled as a GIF.

The recorder is passive: actions and parameters are the same with and without it. An episode is played first
and drawn afterwards, because the bars share one scale per episode; between the two only small things are
kept: the tape (about 5 KB a step) and the scenes, their large pictures compressed.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from agents.evaluation import Policy, choose
from agents.files import atomic_file, check_writable
from envs.errors import UserError
from recall.gif import GifWriter
from recall.palette import fixed_colours
from recall.picture import Facts, Painter, Tile
from recall.scene import Picture, Scene, action_name, scene_of
from recall.tape import Tape, TapeRecorder
from recall.top import SCORE_MEANING, SCORE_NAME, StepRecalls, Thresholds, bar_scale, recalls_of

HOLD_S = 1.5
"""How much longer the last frame of an episode stays."""

Env = gymnasium.Env[Any, Any]
Progress = Callable[[int, int, str], None]
"""Called as progress(steps done, steps in all, what is being done)."""


class SceneStore:
    """The scenes of an episode. Large pictures are compressed: flat colours shrink to a few KB."""

    def __init__(self) -> None:
        self._scenes: list[Scene] = []
        self._packed: list[bytes] = []

    def add(self, scene: Scene) -> None:
        self._packed.append(zlib.compress(scene.picture.tobytes(), level=1))
        # An empty view keeps the shape and none of the memory.
        self._scenes.append(replace(scene, picture=np.broadcast_to(np.uint8(0), scene.picture.shape)))

    def __len__(self) -> int:
        return len(self._scenes)

    def small(self, t: int) -> Scene:
        """Scene t with its small pictures; the large one is blank."""
        return self._scenes[t]

    def __getitem__(self, t: int) -> Scene:
        scene = self._scenes[t]
        picture: Picture = np.frombuffer(zlib.decompress(self._packed[t]), np.uint8)
        return replace(scene, picture=picture.reshape(scene.picture.shape))


@dataclass(frozen=True)
class Episode:
    """One played episode: what happened, and what it looked like."""

    tape: Tape
    scenes: SceneStore | None
    actions: tuple[str, ...]
    """[T] the actions in words."""
    terminated: bool


def record_episode(
    model: Any,
    env: Env,
    seed: int,
    policy: Policy = "greedy",
    core: str | None = None,
    scenes: bool = True,
    rng: np.random.Generator | None = None,
) -> Episode:
    """Play one episode of `env`, reset with `seed`, through `model.act(..., record=True)`.

    `policy` is "greedy" or "sample" (drawn from `rng`, by default a new one of this seed), `core` the name that
    goes on the tape. `scenes=False` records the tape alone, for environments that cannot be drawn or need not be.
    """
    state = model.initial_state(1)
    device = state.action.device
    writes = bool(model.core.writes)
    recorder = TapeRecorder(
        core=core or type(model.core).__name__,
        seed=seed,
        initial_weights=model.core.weights(state.core) if writes else None,
    )
    store = SceneStore() if scenes else None
    names: list[str] = []
    rng = rng or np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    previous_action, previous_reward, terminated, done = -1, 0.0, False, False
    while not done:
        is_first = not names
        scene = scene_of(env) if store is not None else None
        with torch.no_grad():
            batch = {
                name: torch.tensor(np.array(part), device=device)[None] for name, part in observation.items()
            }
            output = model.act(batch, torch.tensor([is_first], device=device), state, record=writes)
        action = int(choose(output.logits, policy, [rng])[0])
        names.append(action_name(env, action))
        next_observation, reward, terminated, truncated, _ = env.step(action)
        reward = float(reward)
        recorder.add(
            output.record,
            observation=observation,
            is_first=is_first,
            previous_action=previous_action,
            previous_reward=previous_reward,
            action=action,
            reward=reward,
            logits=output.logits,
            value=float(output.value[0]),
            agent_cell=scene.agent if scene else None,
            goal_cell=scene.goal if scene else None,
        )
        if store is not None and scene is not None:
            store.add(scene)
        state = model.after(
            output.state, torch.tensor([action], device=device), torch.tensor([reward], device=device)
        )
        observation, previous_action, previous_reward = next_observation, action, reward
        done = terminated or truncated
    return Episode(recorder.tape(), store, tuple(names), bool(terminated))


def facts_of(episode: Episode, t: int, number: int, count: int) -> Facts:
    """The numbers of step t for the picture; episode `number` of `count`."""
    tape = episode.tape
    logits = tape.logits[t].astype(np.float64)
    odds = np.exp(logits - logits.max())
    return Facts(
        step=tape.start_step + t,
        steps=tape.start_step + tape.steps - 1,
        action=episode.actions[t],
        probability=float(odds[tape.action[t]] / odds.sum()),
        reward=float(tape.reward[t]),
        total=float(tape.reward[: t + 1].sum(dtype=np.float64)),
        value=float(tape.value[t]),
        beta=None if tape.memory is None else float(tape.memory.beta[t]),
        episode=number,
        episodes=count,
        core=tape.core,
        seed=tape.seed,
    )


def tiles_of(episode: Episode, t: int, recalls: StepRecalls) -> list[Tile]:
    """The recalls of step t as tiles, in rank order."""
    assert episode.scenes is not None
    beta = episode.tape.written().beta
    tiles = []
    for s, score, supports in zip(recalls.writes, recalls.scores, recalls.supports, strict=True):
        scene = episode.scenes.small(s)
        tiles.append(
            Tile(
                where=scene.where,
                seen=scene.seen,
                step=episode.tape.start_step + s,
                age=t - s,
                beta=float(beta[s]),
                score=score,
                supports=supports,
                reward=float(episode.tape.previous_reward[s]),
            )
        )
    return tiles


def draw_episode(
    writer: GifWriter,
    painter: Painter,
    episode: Episode,
    recalls: Sequence[StepRecalls],
    number: int = 1,
    count: int = 1,
    progress: Progress | None = None,
) -> None:
    """Stream one frame per step into `writer`; `recalls` is empty for a core without write memory."""
    assert episode.scenes is not None
    steps = episode.tape.steps
    scale = bar_scale(list(recalls), painter.thresholds)
    for t in range(steps):
        found = recalls[t] if recalls else None
        tiles = tiles_of(episode, t, found) if found is not None else []
        picture = painter.paint(episode.scenes[t], facts_of(episode, t, number, count), found, tiles, scale)
        writer.add(picture, hold_s=HOLD_S if t == steps - 1 else 0.0)
        if progress is not None:
            progress(t + 1, steps, f"drawing episode {number} of {count}")


def render_recall_gif(
    model: Any,
    env_factory: Callable[[], Env],
    seeds: Iterable[int],
    policy: Policy = "greedy",
    path: str | Path = "recall.gif",
    top_k: int = 5,
    fps: float = 6.0,
    progress: Progress | None = None,
    core: str | None = None,
    thresholds: Thresholds | None = None,
    rngs: Sequence[np.random.Generator] | None = None,
) -> dict[str, Any]:
    """Play one episode per seed and show them one after another in one GIF; returns what evaluate.py prints.

    `env_factory` makes a single environment (with render_mode="rgb_array" unless it is a grid that is drawn
    here). `rngs`, one per seed, drive the sampled policy, so that an evaluation's own episodes can be shown.
    Without write memory the left side is drawn alone, and the picture says why.
    """
    seeds = list(seeds)
    if not seeds:
        raise UserError("a GIF needs at least one episode, not 0")
    path = check_writable(path)
    limits = thresholds or Thresholds()
    core = core or type(model.core).__name__
    caption = None if model.core.writes else f"No recalls: the core {core!r} has no write memory."
    start_s = time.perf_counter()
    env = env_factory()
    episodes: list[dict[str, Any]] = []
    try:
        env.reset(seed=seeds[0])
        first = scene_of(env)  # refuses here, before anything is written, what cannot be drawn
        painter = Painter(top_k, limits, caption, first.has_markers, first.seen is not None)
        with atomic_file(path) as file:
            writer = GifWriter(file, fps, fixed_colours(), _comment(limits))
            for number, seed in enumerate(seeds, start=1):
                episode = record_episode(
                    model, env, seed, policy, core, rng=rngs[number - 1] if rngs else None
                )
                recalls = recalls_of(episode.tape, top_k) if model.core.writes else []
                draw_episode(writer, painter, episode, recalls, number, len(seeds), progress)
                episodes.append(_summary(episode, recalls, limits))
            writer.close()
    finally:
        env.close()
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        "frames": writer.frames,
        "seconds": time.perf_counter() - start_s,
        "score": SCORE_NAME if model.core.writes else None,
        "top_k": top_k,
        "episodes": episodes,
    }


def _comment(limits: Thresholds) -> str:
    """Stored in the file, so that the picture can be understood without this code."""
    return (
        f"Recalls by {SCORE_NAME}: {SCORE_MEANING}. Grey: use share < {limits.use_share:g} (memory not used) "
        f"or residual rho > {limits.residual:g} (writes interact)."
    )


def _summary(episode: Episode, recalls: Sequence[StepRecalls], limits: Thresholds) -> dict[str, Any]:
    tape = episode.tape
    summary: dict[str, Any] = {
        "seed": tape.seed,
        "steps": tape.steps,
        "return": float(tape.reward.sum(dtype=np.float64)),
        "terminated": episode.terminated,
    }
    if recalls:
        doubts = [step.doubt(limits) for step in recalls]
        summary |= {
            "use_share_median": float(np.median([step.use_share for step in recalls])),
            "residual_median": float(np.median([step.residual for step in recalls])),
            "steps_not_used": sum(step.use_share < limits.use_share for step in recalls),
            "steps_doubtful": sum(bool(doubt) for doubt in doubts),
        }
    return summary
