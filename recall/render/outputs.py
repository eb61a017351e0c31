"""Show what was recalled: play episodes once, and draw them as a GIF or MP4, an HTML page and more.

Every output of a call comes from the same recording, so the numbers in all of them are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.config import MOST_STEPS
from agents.files import atomic_file, check_writable
from agents.play import Policy
from envs.errors import UserError
from recall.record.tape import Tape
from recall.render.episode import Env, Episode, SceneStore, record_episode
from recall.render.html import ViewerPage
from recall.render.movie import MovieWriter, check_movie, open_movie
from recall.render.palette import fixed_colours
from recall.render.picture import Facts, Painter, Tile
from recall.render.scene import Scene, scene_of
from recall.render.similarity import draw_similarity, maps_of_tape
from recall.scores.played import measures_of, scores_of
from recall.scores.recalls import (
    UNAFFECTED,
    Rows,
    StepRecalls,
    Thresholds,
    bar_scale,
    recalls_of,
    stable_rows,
)
from recall.scores.registry import (
    SCORES,
    ScoreMatrix,
    cheap_scores,
    check_applies,
    kind_of,
    usual_score,
)

__all__ = [
    "Env",
    "Episode",
    "Outputs",
    "SceneStore",
    "draw_episode",
    "facts_of",
    "numbered",
    "record_episode",
    "render_recall_gif",
    "render_recalls",
    "tiles_of",
]

HOLD_S = 1.5
"""How much longer the last frame of an episode stays."""

Progress = Callable[[int, int, str], None]
"""Called as progress(steps done, steps in all, what is being done)."""
MoreScores = Callable[[Tape], Mapping[str, ScoreMatrix | Any]]
"""Called with a tape; returns further scores by name, each a `ScoreMatrix` or an array [T, T]."""


@dataclass(frozen=True)
class Outputs:
    """Which files to write. With several episodes, tapes and similarity maps get a number in their names."""

    gif: str | Path | None = None
    """An animation, .gif or .mp4."""
    html: str | Path | None = None
    """The viewer, one self-contained page."""
    tape: str | Path | None = None
    """The raw tape, .npz (`recall.record.tape.Tape.load` reads it)."""
    similarity: str | Path | None = None
    """Maps of write keys and target values, .png."""
    gif_steps: tuple[int, int | None] = (0, None)
    """First step that the animation shows of an episode, and its end, itself excluded; None: to the last."""


def facts_of(episode: Episode, t: int, number: int, count: int) -> Facts:
    """The numbers of step t for the picture; episode `number` of `count`."""
    tape = episode.tape
    return Facts(
        step=tape.start_step + t,
        steps=tape.start_step + tape.steps - 1,
        action=episode.actions[t],
        likelihood=tape.likelihood,
        probability=float(tape.probability[t]),
        reward=float(tape.reward[t]),
        total=float(tape.reward[: t + 1].sum(dtype=np.float64)),
        value=float(tape.value[t]),
        beta=None if tape.memory is None else float(tape.memory.beta[t]),
        episode=number,
        episodes=count,
        core=tape.core,
        seed=tape.seed,
    )


def tiles_of(episode: Episode, t: int, recalls: StepRecalls, rows: Rows | None = None) -> list[Tile | None]:
    """The recalls of step t as tiles, row by row; without `rows` in rank order."""
    assert episode.scenes is not None
    tape = episode.tape
    tiles: list[Tile | None] = []
    for rank in range(len(recalls.writes)) if rows is None else rows:
        if rank is None:
            tiles.append(None)
            continue
        s = recalls.writes[rank]
        scene = episode.scenes.small(s)
        tiles.append(
            Tile(
                rank=rank,
                where=scene.where,
                seen=scene.seen,
                step=tape.start_step + s,
                age=t - s,
                note=_note(tape, s, recalls, rank),
                score=recalls.scores[rank],
                had_effect=recalls.counts(rank),
                supports=recalls.supports[rank],
                reward=float(tape.previous_reward[s]),
                cell=scene.agent,
                words=scene.words,
            )
        )
    return tiles


def _note(tape: Tape, s: int, recalls: StepRecalls, rank: int) -> str:
    """What a tile says of the write s itself; nothing for a core that only carries a state."""
    if recalls.of_steps and tape.memory is None:
        return ""
    if tape.addresses is None:
        return f"beta {tape.written().beta[s]:.2f}"
    return "read" if recalls.counts(rank) else "not read"


def draw_episode(
    writer: MovieWriter,
    painter: Painter,
    episode: Episode,
    recalls: Sequence[StepRecalls],
    number: int = 1,
    count: int = 1,
    progress: Progress | None = None,
    shown: tuple[int, int | None] = (0, None),
) -> None:
    """Stream one frame per step of `shown` (`Outputs.gif_steps`) into `writer`."""
    assert episode.scenes is not None
    steps = range(episode.tape.steps)[slice(*shown)]
    scale = bar_scale(recalls, painter.thresholds)
    rows = stable_rows(recalls, painter.top_k)
    for t in steps:
        tiles = tiles_of(episode, t, recalls[t], rows[t])
        facts = facts_of(episode, t, number, count)
        picture = painter.paint(episode.scenes[t], facts, recalls[t], tiles, scale)
        writer.add(picture, hold_s=HOLD_S if t == steps[-1] else 0.0)
        if progress is not None:
            progress(t + 1 - steps[0], len(steps), f"drawing episode {number} of {count}")


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
    """`render_recalls` for an animation alone."""
    return render_recalls(
        model,
        env_factory,
        seeds,
        Outputs(gif=path),
        policy=policy,
        top_k=top_k,
        fps=fps,
        progress=progress,
        core=core,
        thresholds=thresholds,
        rngs=rngs,
    )


def render_recalls(
    model: Any,
    env_factory: Callable[[], Env],
    seeds: Iterable[int],
    outputs: Outputs,
    *,
    policy: Policy = "greedy",
    score: str | None = None,
    more_scores: MoreScores | None = None,
    top_k: int = 5,
    fps: float = 6.0,
    title: str = "",
    progress: Progress | None = None,
    core: str | None = None,
    thresholds: Thresholds | None = None,
    rngs: Sequence[np.random.Generator] | None = None,
    window: int | None = None,
    most_steps: int = MOST_STEPS,
) -> dict[str, Any]:
    """Play one episode per seed, once, and write every file of `outputs`; returns what evaluate.py prints.

    `env_factory` makes a single environment (with render_mode="rgb_array" unless it is a grid that is drawn
    here). `rngs`, one per seed, drive the sampled policy, so that an evaluation's own episodes can be shown.
    `score` ranks the recalls of the animation and is the one that the page opens with; the page offers all that are
    cheap. By default it is R2, the address for a hard memory, or R5 for a core that only carries a state.
    `window` is how many steps back scores of whole steps look, `most_steps` ends episodes that do not end.
    """
    seeds = list(seeds)
    core = core or type(model.core).__name__
    score = score or usual_score(kind_of(model.core))
    _check(outputs, seeds, score, fps, core, model.core)
    limits = thresholds or Thresholds()
    start_s = time.perf_counter()
    env = env_factory()
    episodes: list[dict[str, Any]] = []
    try:
        env.reset(seed=seeds[0])
        first = _first_scene(env, needed=outputs.gif is not None or outputs.html is not None)
        markers, view = first is None or first.has_markers, first is not None and first.seen is not None
        painter = Painter(top_k, limits, markers, view, score)
        page = ViewerPage(top_k, limits, title or core) if outputs.html is not None else None
        with ExitStack() as stack:
            movie = None
            if outputs.gif is not None:
                file = stack.enter_context(atomic_file(outputs.gif))
                movie = stack.enter_context(
                    open_movie(outputs.gif, file, fps, fixed_colours(), _comment(limits, score))
                )
            for number, seed in enumerate(seeds, start=1):
                rng = rngs[number - 1] if rngs else None
                episode = record_episode(model, env, seed, policy, core, first is not None, rng, most_steps)
                recalls: list[StepRecalls] = []
                matrices: dict[str, ScoreMatrix] = {}
                measures = measures_of(model, episode.tape)
                if movie is not None or page is not None or kind_of(model.core) != "other":
                    matrices = scores_of(
                        model,
                        episode.tape,
                        measures,
                        {score} | set(cheap_scores(kind_of(episode.tape)) if page is not None else ()),
                        told(progress, f"replaying episode {number} of {len(seeds)}"),
                        {} if more_scores is None else more_scores(episode.tape),
                        window,
                    )
                    recalls = recalls_of(episode.tape, top_k, matrices[score], measures)
                if movie is not None:
                    draw_episode(
                        movie, painter, episode, recalls, number, len(seeds), progress, outputs.gif_steps
                    )
                if page is not None:
                    page.add(episode, matrices, measures)
                _write_numbered(outputs, episode, number, len(seeds))
                episodes.append(_summary(episode, recalls, limits))
            if movie is not None:
                if not movie.frames:
                    longest = max(episode["steps"] for episode in episodes)
                    raise UserError(
                        f"no step to show from step {outputs.gif_steps[0]} on: the longest episode has {longest}"
                    )
                movie.close()
        if page is not None and outputs.html is not None:
            page.write(outputs.html, score)
    finally:
        env.close()
    return {
        "path": None if outputs.gif is None else str(outputs.gif),
        "bytes": _size(outputs.gif),
        "frames": 0 if movie is None else movie.frames,
        "html": None if outputs.html is None else str(outputs.html),
        "html_bytes": _size(outputs.html),
        "seconds": time.perf_counter() - start_s,
        "score": SCORES[score].label,
        "top_k": top_k,
        "episodes": episodes,
    }


def _first_scene(env: Env, needed: bool) -> Scene | None:
    """The scene after a reset; refuses here, before anything is written, what must be drawn and cannot be."""
    try:
        return scene_of(env)
    except UserError:
        if needed:
            raise
        return None


def numbered(path: str | Path, number: int, count: int) -> Path:
    """The file of episode `number` of `count`: out.npz alone, else out-1.npz, out-2.npz, ..."""
    path = Path(path)
    return path if count == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _check(outputs: Outputs, seeds: Sequence[int], score: str, fps: float, core: str, memory: Any) -> None:
    """Refuse before an episode is played what cannot be written."""
    if not seeds:
        raise UserError("at least one episode is needed, not 0")
    if outputs.gif is not None:
        check_movie(outputs.gif, fps)
    if outputs.html is not None:
        check_writable(outputs.html)
    for path in (outputs.tape, outputs.similarity):
        if path is not None:
            check_writable(numbered(path, 1, len(seeds)))
    check_applies(score, core, kind_of(memory))
    if outputs.similarity is not None and not memory.writes:
        kind = "keeps slots, which are read whole" if memory.addresses else "has no write memory"
        raise UserError(f"no similarity maps: the core {core!r} {kind}")


def told(progress: Progress | None, what: str) -> Callable[[int, int], None]:
    """The same progress for one thing that takes long."""
    return lambda done, total: None if progress is None else progress(done, total, what)


def _write_numbered(outputs: Outputs, episode: Episode, number: int, count: int) -> None:
    if outputs.tape is not None:
        episode.tape.save(numbered(outputs.tape, number, count))
    if outputs.similarity is not None:
        thumbnails = None
        if episode.scenes is not None:
            scenes = [episode.scenes.small(t) for t in range(episode.tape.steps)]
            thumbnails = [scene.where if scene.seen is None else scene.seen for scene in scenes]
        target = numbered(outputs.similarity, number, count)
        draw_similarity(maps_of_tape(episode.tape), target, thumbnails=thumbnails)


def _size(path: str | Path | None) -> int:
    return 0 if path is None else Path(path).stat().st_size


def _comment(limits: Thresholds, score: str) -> str:
    """Stored in the file, so that the picture can be understood without this code."""
    if score == "address":
        return (
            f"Recalls by {SCORES[score].label}: {SCORES[score].meaning}. Grey tiles were not read. "
            f"Grey: no head read a slot (memory not used), "
            f"or no probability moves by {limits.policy:g} (action unaffected)."
        )
    if SCORES[score].of_steps:
        return (
            f"Recalls by {SCORES[score].label}: {SCORES[score].meaning}. "
            f"Grey: no probability moves by {limits.policy:g} (action unaffected), or only if several steps are "
            f"removed (no single step)."
        )
    return (
        f"Recalls by {SCORES[score].label}: {SCORES[score].meaning}. "
        f"Grey: use share < {limits.use_share:g} (memory not used), "
        f"no probability moves by {limits.policy:g} (action unaffected) "
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
        if not recalls[0].of_steps:
            summary |= {
                "use_share_median": float(np.median([step.use_share for step in recalls])),
                "residual_median": float(np.median([step.residual for step in recalls])),
                "steps_not_used": sum(step.use_share < limits.use_share for step in recalls),
            }
        summary |= {
            "steps_unaffected": sum(doubt == UNAFFECTED for doubt in doubts),
            "steps_doubtful": sum(bool(doubt) for doubt in doubts),
        }
    return summary
