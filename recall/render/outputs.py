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
from numpy.typing import NDArray

from agents.evaluation import Policy
from agents.files import atomic_file, check_writable
from agents.model import ActorCritic
from envs.errors import UserError
from recall.record.tape import Tape
from recall.render.episode import Env, Episode, SceneStore, record_episode
from recall.render.html import ViewerPage
from recall.render.palette import fixed_colours
from recall.render.picture import Facts, Painter, Tile
from recall.render.scene import Scene, scene_of
from recall.render.similarity import draw_similarity, maps_of_tape
from recall.render.video import MovieWriter, check_movie, open_movie
from recall.scores.effect import policy_effect
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
    OF_ADDRESSES,
    SCORES,
    Measures,
    ReadMeasures,
    ScoreMatrix,
    as_matrix,
    check_applies,
    check_score,
    measure,
    measure_reads,
    score_matrices,
    scores_that_apply,
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


def facts_of(episode: Episode, t: int, number: int, count: int) -> Facts:
    """The numbers of step t for the picture; episode `number` of `count`."""
    tape = episode.tape
    return Facts(
        step=tape.start_step + t,
        steps=tape.start_step + tape.steps - 1,
        action=episode.actions[t],
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
                note=_note(tape, s, recalls.counts(rank)),
                score=recalls.scores[rank],
                had_effect=recalls.counts(rank),
                supports=recalls.supports[rank],
                reward=float(tape.previous_reward[s]),
                cell=scene.agent,
            )
        )
    return tiles


def _note(tape: Tape, s: int, had_effect: bool) -> str:
    """What a tile says of the write s itself."""
    if tape.addresses is None:
        return f"beta {tape.written().beta[s]:.2f}"
    return "read" if had_effect else "not read"


def draw_episode(
    writer: MovieWriter,
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
    scale = bar_scale(recalls, painter.thresholds)
    rows = stable_rows(recalls, painter.top_k)
    for t in range(steps):
        found = recalls[t] if recalls else None
        tiles = tiles_of(episode, t, found, rows[t]) if found is not None else []
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
) -> dict[str, Any]:
    """Play one episode per seed, once, and write every file of `outputs`; returns what evaluate.py prints.

    `env_factory` makes a single environment (with render_mode="rgb_array" unless it is a grid that is drawn
    here). `rngs`, one per seed, drive the sampled policy, so that an evaluation's own episodes can be shown.
    `score` ranks the recalls of the animation and is the one that the page opens with; the page offers all. By
    default it is R2, or the address for a hard memory.
    Without write memory the left side is drawn alone, and the picture says why.
    """
    seeds = list(seeds)
    core = core or type(model.core).__name__
    addresses = bool(model.core.addresses)
    recalled = bool(model.core.writes) or addresses
    score = score or scores_that_apply(addresses)[0]
    _check(outputs, seeds, score, fps, core, model.core)
    limits = thresholds or Thresholds()
    caption = None if recalled else f"No recalls: the core {core!r} has no write memory."
    start_s = time.perf_counter()
    env = env_factory()
    episodes: list[dict[str, Any]] = []
    try:
        env.reset(seed=seeds[0])
        first = _first_scene(env, needed=outputs.gif is not None or outputs.html is not None)
        markers, view = first is None or first.has_markers, first is not None and first.seen is not None
        painter = Painter(top_k, limits, caption, markers, view, score)
        page = ViewerPage(top_k, limits, title or core, caption) if outputs.html is not None else None
        with ExitStack() as stack:
            movie = None
            if outputs.gif is not None:
                file = stack.enter_context(atomic_file(outputs.gif))
                movie = stack.enter_context(
                    open_movie(outputs.gif, file, fps, fixed_colours(), _comment(limits, score))
                )
            for number, seed in enumerate(seeds, start=1):
                episode = record_episode(
                    model, env, seed, policy, core, first is not None, rngs[number - 1] if rngs else None
                )
                recalls: list[StepRecalls] = []
                matrices: dict[str, ScoreMatrix] = {}
                measures = _measures(model, episode.tape) if recalled else None
                if measures is not None:
                    matrices = _scores_of(model, episode.tape, measures, more_scores, score, page is not None)
                    recalls = recalls_of(episode.tape, top_k, matrices[score], measures)
                if movie is not None:
                    draw_episode(movie, painter, episode, recalls, number, len(seeds), progress)
                if page is not None:
                    page.add(episode, matrices, measures)
                _write_numbered(outputs, episode, number, len(seeds))
                episodes.append(_summary(episode, recalls, limits))
            if movie is not None:
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
        "score": SCORES[score].label if recalled else None,
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
    check_score(score)
    if memory.writes or memory.addresses:
        check_applies(score, core, bool(memory.addresses))
    if outputs.similarity is not None and not memory.writes:
        kind = "keeps slots, which are read whole" if memory.addresses else "has no write memory"
        raise UserError(f"no similarity maps: the core {core!r} {kind}")


def _policy_effect(model: Any, tape: Tape) -> NDArray[np.float64] | None:
    """Whether reading affects the action, for models of this package that can be replayed."""
    return policy_effect(model, tape) if isinstance(model, ActorCritic) and not tape.start_step else None


def _measures(model: Any, tape: Tape) -> Measures | ReadMeasures:
    effect = _policy_effect(model, tape)
    return measure(tape, effect) if tape.addresses is None else measure_reads(tape, effect)


def _scores_of(
    model: Any,
    tape: Tape,
    measures: Measures | ReadMeasures,
    more_scores: MoreScores | None,
    score: str,
    every: bool,
) -> dict[str, ScoreMatrix]:
    """The scores of an episode in the order of `SCORES`: the one asked for, or every one that is cheap too."""
    given_by_caller = dict(more_scores(tape)) if more_scores is not None else {}
    names = {score} | set(scores_that_apply(tape.addresses is not None) if every else ())
    known = measures if isinstance(measures, Measures) else None
    found = score_matrices(tape, sorted(names - set(given_by_caller)), known, model)
    for name, given in given_by_caller.items():
        found[name] = as_matrix(name, given, tape.steps)
    return {name: found[name] for name in SCORES if name in found}


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
    if score in OF_ADDRESSES:
        return (
            f"Recalls by {SCORES[score].label}: {SCORES[score].meaning}. Grey tiles were not read. "
            f"Grey: no head read a slot (memory not used), "
            f"or no probability moves by {limits.policy:g} (action unaffected)."
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
        summary |= {
            "use_share_median": float(np.median([step.use_share for step in recalls])),
            "residual_median": float(np.median([step.residual for step in recalls])),
            "steps_not_used": sum(step.use_share < limits.use_share for step in recalls),
            "steps_unaffected": sum(doubt == UNAFFECTED for doubt in doubts),
            "steps_doubtful": sum(bool(doubt) for doubt in doubts),
        }
    return summary
