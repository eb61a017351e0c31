"""Two agents on one page: the same episodes beside each other, where they part, and what each recalled there.

The page is that of `recall/render/html.py`, with a second pane. Both agents are asked by the same score, and their bars
share one scale, so that what stands beside each other can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from agents.compare import comparison, in_words, rows_of, table
from agents.config import MOST_STEPS
from agents.evaluation import EpisodeResult, LoadedAgent, action_rng, report
from agents.files import write_json
from agents.play import Env, Policy
from agents.progress import ProgressDisplay
from envs import held_out_seed, make_shown
from envs.errors import UserError
from recall.render.episode import Episode, record_episode
from recall.render.html import ViewerPage
from recall.render.outputs import Progress, told
from recall.scores.played import measures_of, scores_of
from recall.scores.recalls import Thresholds, bar_scale, recalls_of
from recall.scores.registry import SCORES, Kind, cheap_scores, check_applies, kind_of


@dataclass(frozen=True)
class Side:
    """One of the two agents."""

    name: str
    """How the page calls it."""
    core: str
    model: Any
    make_env: Callable[[], Env]
    """A single environment, made to be drawn."""


def shared_scores(kinds: Sequence[Kind], asked: str | None = None) -> list[str]:
    """The scores that both are asked by: R5, which every agent answers, what is cheap for both, and the one asked for.

    The page opens with the last.
    """
    cheap = [name for name in SCORES if all(name in cheap_scores(kind) for kind in kinds)]
    opens_with = asked or "step"
    return [*(name for name in ("step", *cheap) if name != opens_with), opens_with]


def render_against(
    sides: tuple[Side, Side],
    seeds: Iterable[int],
    path: str | Path,
    *,
    policy: Policy = "greedy",
    score: str | None = None,
    window: int | None = None,
    top_k: int = 5,
    rng_of: Callable[[int], np.random.Generator] | None = None,
    most_steps: int = MOST_STEPS,
    table: Sequence[Sequence[str]] = (),
    note: str = "",
    title: str = "",
    thresholds: Thresholds | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Play one episode per seed with either agent and write the page; returns where each episode parts.

    `rng_of(n)` is the random stream of episode n, made anew for each agent; `most_steps` ends episodes that do not end;
    `table` and `note` are what the page says of all episodes (`agents.compare`).
    """
    limits, seeds = thresholds or Thresholds(), list(seeds)
    kinds = [kind_of(side.model.core) for side in sides]
    names = shared_scores(kinds, score)
    for side, kind in zip(sides, kinds, strict=True):
        check_applies(names[-1], side.core, kind)
    page = ViewerPage(top_k, limits, title or " against ".join(side.name for side in sides))
    pairs: list[dict[str, Any]] = []
    envs = [side.make_env() for side in sides]
    try:
        for number, seed in enumerate(seeds):
            stages = told(progress, f"episode {number + 1} of {len(seeds)}")
            episodes = [
                record_episode(
                    side.model,
                    env,
                    seed,
                    policy,
                    side.core,
                    rng=rng_of(number) if rng_of else None,
                    most_steps=most_steps,
                )
                for side, env in zip(sides, envs, strict=True)
            ]
            pairs.append(parting(sides, episodes, 2 * number))
            _add(page, sides, episodes, names, stages, window)
    finally:
        for env in envs:
            env.close()
    page.against = {
        "names": [side.name for side in sides],
        "pairs": pairs,
        "table": [list(line) for line in table],
        "note": note,
    }
    page.write(path, names[-1])
    return pairs


def compare_and_show(
    agents: tuple[LoadedAgent, LoadedAgent],
    names: tuple[str, str],
    results: tuple[list[EpisodeResult], list[EpisodeResult]],
    console: Console,
    path: str | Path,
    *,
    json: str | None,
    shown: int,
    policy: Policy,
    seed: int,
    score: str | None,
    window: int | None,
    top_k: int,
    most_steps: int,
) -> None:
    """Say who earned more in the episodes of evaluation seed `seed`, and put the first `shown` on a page."""
    ours, theirs = (report(agent, found, policy, seed) for agent, found in zip(agents, results, strict=True))
    both = comparison(*results)
    lines = table(ours, theirs, both)
    for line in [*rows_of(names, lines), in_words(both)]:
        console.print(line, soft_wrap=True)
    if json is not None:
        write_json(json, ours | {"against": theirs, "comparison": both})
    first, second = (
        Side(
            name,
            agent.config.core,
            agent.model,
            partial(make_shown, agent.config.env, agent.config.env_arguments()),
        )
        for name, agent in zip(names, agents, strict=True)
    )
    with ProgressDisplay(console, 100, "%") as display:
        display.last_shown = time.monotonic()  # what is done at once needs no line
        render_against(
            (first, second),
            [held_out_seed(seed, episode) for episode in range(shown)],
            path,
            policy=policy,
            score=score,
            window=window,
            top_k=top_k,
            rng_of=lambda episode: action_rng(seed, episode),
            most_steps=most_steps,
            table=lines,
            note=f"mean of {len(results[0])} held-out episodes (95% interval), {policy} policy; {in_words(both)}",
            title=f"{names[0]} against {names[1]} in {agents[0].config.env}",
            progress=lambda done, total, what: display.show(100 * done // total, what),
        )
    console.print(f"{path}: {Path(path).stat().st_size / 1e6:.2f} MB")


def parting(sides: tuple[Side, Side], episodes: Sequence[Episode], first_number: int) -> dict[str, Any]:
    """Where the actions of two episodes differ; refuses episodes that do not open in the same situation."""
    ours, theirs = episodes
    assert ours.scenes is not None
    assert theirs.scenes is not None
    if not np.array_equal(ours.scenes[0].picture, theirs.scenes[0].picture):
        raise UserError(
            f"seed {ours.tape.seed} opens otherwise for {sides[0].name} than for {sides[1].name}: their episodes "
            "cannot be shown beside each other (do they need the same --wrapper? is the environment seeded?)"
        )
    actions = [list(episode.tape.action) for episode in episodes]
    differs = [t for t, (a, b) in enumerate(zip(*actions, strict=False)) if not np.array_equal(a, b)]
    return {
        "sides": [first_number, first_number + 1],
        "first": differs[0] if differs else None,
        "differs": differs,
    }


def _add(
    page: ViewerPage,
    sides: tuple[Side, Side],
    episodes: Sequence[Episode],
    names: Sequence[str],
    progress: Callable[[int, int], None],
    window: int | None,
) -> None:
    """Put both episodes on the page, with one scale for the bars of both."""
    known = [measures_of(side.model, episode.tape) for side, episode in zip(sides, episodes, strict=True)]
    steps = sum(episode.tape.steps for episode in episodes)
    found, done = [], 0
    for side, episode, measures in zip(sides, episodes, known, strict=True):
        before, share = done, episode.tape.steps
        found.append(
            scores_of(
                side.model, episode.tape, measures, names,
                lambda at, of, before=before, share=share: progress(before + share * at // of, steps),  # type: ignore[misc]
                window=window,
            )
        )  # fmt: skip
        done += share
    both = list(zip(episodes, found, known, strict=True))
    scales = {
        name: bar_scale(
            [
                step
                for episode, scores, measures in both
                for step in recalls_of(episode.tape, page.top_k, scores[name], measures)
            ],
            page.thresholds,
        )
        for name in names
    }
    for episode, scores, measures in both:
        page.add(episode, scores, measures, scales)
