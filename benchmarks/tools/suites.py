"""Tries every id of every installed suite: train, evaluate, draw, recall; or the line that refuses it.

    python -m benchmarks.tools.suites                                    all that is installed
    python -m benchmarks.tools.suites --suites MiniGrid,POPGym --sample 20
    python -m benchmarks.tools.suites --suites ALE --missing             the ids that have no row yet
    python -m benchmarks.tools.suites --suites none                      only writes the page again

Every id runs in a process of its own with a time limit, so that one which crashes or hangs is a line like any other.
It trains two updates of mnm-p on 2 environments, then plays one held-out episode of at most 12 steps, without and with
a GIF and a page. Every row goes to benchmarks/results/suites.csv at once (those of other ids stay), at the end the
page to docs/suites.md.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import re
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium
import torch
from gymnasium.envs.registration import EnvSpec
from rich.console import Console

from agents.config import TrainConfig
from agents.evaluation import action_rng, load_agent, play_episodes
from agents.files import read_csv, write_csv, write_text
from agents.options import option, parse, run_command
from agents.trainer import Trainer
from benchmarks.common import RESULTS_DIR, ROOT, names_in
from envs import held_out_seed, make_shown
from envs.errors import UserError
from recall.render.outputs import Outputs, render_recalls

RESULTS, PAGE = RESULTS_DIR / "suites.csv", ROOT / "docs" / "suites.md"
STAGES = ("train", "evaluate", "recall")
TINY = TrainConfig(
    core="mnm-p", num_envs=2, minibatches=2, rollout_steps=8, total_steps=32, epochs=1, hidden_size=16,
    embedding_size=16, memory_size=8, log_every=2,
)  # fmt: skip
MOST_STEPS = 12


@dataclass(frozen=True)
class Suite:
    """A package of environments."""

    module: str
    """Registers them when it is imported."""
    distribution: str
    ids: Callable[[], list[str]]
    """What it has, once `module` is imported."""


def _registered(holds: Callable[[EnvSpec], bool]) -> Callable[[], list[str]]:
    return lambda: [spec.id for spec in gymnasium.registry.values() if holds(spec)]


def _starts(*beginnings: str) -> Callable[[], list[str]]:
    return _registered(lambda spec: spec.id.startswith(beginnings))


def _from(package: str) -> Callable[[], list[str]]:
    return _registered(lambda spec: str(spec.entry_point).startswith(package))


def _atari_of_envpool() -> list[str]:
    """The games of ALE that EnvPool has under names of its own, without a Python form."""
    import envpool

    return [name for name in envpool.list_all_envs() if f"ALE/{name}" in gymnasium.registry]


SUITES = {
    "mnm-rl": Suite("envs", "mnm-rl", _starts("mnm/")),
    "MiniGrid": Suite("minigrid", "minigrid", _starts("MiniGrid-")),
    "BabyAI": Suite("minigrid", "minigrid", _starts("BabyAI-")),
    "Gymnasium": Suite("gymnasium", "gymnasium", _from("gymnasium.")),
    "POPGym": Suite("popgym", "popgym", _starts("popgym-")),
    "ALE": Suite("ale_py", "ale-py", _starts("ALE/")),
    "EnvPool's ALE": Suite("ale_py", "envpool", _atari_of_envpool),
    "highway-env": Suite("highway_env", "highway-env", _from("highway_env")),
    "memory-gym": Suite("memory_gym", "memory-gym", _from("memory_gym")),
    "ViZDoom": Suite("vizdoom.gymnasium_wrapper", "vizdoom", _starts("Vizdoom")),
    "flappy-bird": Suite("flappy_bird_gymnasium", "flappy-bird-gymnasium", _starts("FlappyBird-")),
}


@dataclass(frozen=True)
class SuitesConfig:
    """Options of the command."""

    suites: str = option(
        "all", "names separated by commas, all (that are installed) or none", metavar="NAMES"
    )
    sample: int = option(0, "ids of each suite, drawn at random but always the same (0: every id)")
    missing: bool = option(False, "leave out ids that have a row", switch=True)
    timeout: float = option(120.0, "seconds that one id may take")


def ids_of(suite: Suite, sample: int) -> list[str]:
    """The ids of an installed suite; none if it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(suite.module)
            ids = sorted(suite.ids())
    except ImportError:
        return []
    return ids if not sample or sample >= len(ids) else sorted(random.Random(0).sample(ids, sample))


def tried(env_id: str, timeout: float) -> dict[str, str]:
    """What became of an id: a row of the results."""
    context: Any = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_try, args=(env_id, sending))
    process.start()
    sending.close()
    row = {"id": env_id, "backend": "", **dict.fromkeys(STAGES, ""), "picture": "", "refusal": ""}
    try:
        while receiving.poll(timeout):
            row |= receiving.recv()
        row["refusal"] = f"no answer after {timeout:g} s"
        process.kill()
    except EOFError:
        process.join()
        if process.exitcode:
            row["refusal"] = row["refusal"] or f"the process ended with code {process.exitcode}"
    return row


def _try(env_id: str, sending: Connection) -> None:
    """Send one dict per stage; a refusal ends it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _stages(env_id, Path(folder), sending.send)
    except UserError as error:
        # Where packages lie is no part of the answer, and differs between machines.
        sending.send({"refusal": re.sub(r"/\S*/site-packages/", "", str(error))})
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        sending.send({"refusal": f"TRACEBACK {type(error).__name__} at {where}: {error}"})
    finally:
        sending.close()


def _stages(env_id: str, folder: Path, send: Callable[[dict[str, str]], None]) -> None:
    trainer = Trainer(replace(TINY, env=env_id, run_dir=str(folder / "run")))
    for _ in range(2):
        trainer.advance()
    trainer.save()
    send({"train": "yes", "backend": trainer.env.backend})
    trainer.close()
    agent = load_agent(folder / "run", "latest", torch.device("cpu"))
    agent = replace(agent, config=replace(agent.config, max_episode_steps=MOST_STEPS))
    play_episodes(agent, 1)
    send({"evaluate": "yes"})
    shown = make_shown(env_id, agent.config.env_arguments())
    gif, page = folder / "recall.gif", folder / "recall.html"
    render_recalls(
        agent.model,
        lambda: shown,
        [held_out_seed(0, 0)],
        Outputs(gif=gif, html=page),
        core=agent.config.core,
        rngs=[action_rng(0, 0)],
    )
    if gif.stat().st_size and page.stat().st_size:
        drawn = shown.render_mode is None and not hasattr(shown.unwrapped, "walls")
        send({"recall": "yes", "picture": "observation" if drawn else "its own"})


def page_of(rows: Sequence[dict[str, str]]) -> str:
    """The text of docs/suites.md."""
    lines = [
        "# Suites of environments",
        "",
        "<!-- Written by `python -m benchmarks.tools.suites`; do not edit by hand. -->",
        "",
        "What becomes of the ids of every suite: two updates of training with mnm-p (`--backend auto`), one held-out",
        f"episode of at most {MOST_STEPS} steps, and its recalls as a GIF and a page. Every id is a row of",
        "`benchmarks/results/suites.csv`. *Drawn* counts the ids whose GIF shows the observation, because the",
        "environment draws no picture.",
        "",
        "| suite | version | ids tried | train | evaluate | GIF and page | drawn | fast form |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for suite in dict.fromkeys(row["suite"] for row in rows):
        own = [row for row in rows if row["suite"] == suite]
        counts = [sum(row[stage] == "yes" for row in own) for stage in STAGES]
        drawn = sum(row["picture"] == "observation" for row in own)
        fast = sum(row["backend"] in ("native", "envpool") for row in own)
        lines.append(
            f"| {suite} | {own[0]['version']} | {len(own)} of {own[0]['of']} | "
            + " | ".join(map(str, (*counts, drawn, fast)))
            + " |"
        )
    refused = Counter(
        (row["suite"], row["refusal"].replace(row["id"], "ID")) for row in rows if row["refusal"]
    )
    if refused:
        lines += ["", "## What is refused, and why", "", "| suite | ids | line |", "|---|---|---|"]
        lines += [
            f"| {suite} | {_some_ids(rows, suite, line, count)} | {line[:300].replace('|', '/')} |"
            for (suite, line), count in refused.items()
        ]
    return "\n".join(lines) + "\n"


def _some_ids(rows: Sequence[dict[str, str]], suite: str, line: str, count: int) -> str:
    ids = [r["id"] for r in rows if r["suite"] == suite and r["refusal"].replace(r["id"], "ID") == line]
    return ", ".join(f"`{one}`" for one in ids[:3]) + (f" and {count - 3} more" if count > 3 else "")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(SuitesConfig(), argv, description=__doc__ or "")
    console = Console(soft_wrap=True)
    torch.set_num_threads(1)
    chosen = names_in(config.suites, SUITES, "suite")
    if chosen:  # what is imported now, every process has
        with tempfile.TemporaryDirectory() as folder:
            _stages("mnm/TMaze-v0", Path(folder), lambda row: None)
    for name in chosen:
        suite = SUITES[name]
        ids, count = ids_of(suite, config.sample), len(ids_of(suite, 0))
        tried_before = {row["id"] for row in read_csv(RESULTS) if config.missing and row["suite"] == name}
        for env_id in [env_id for env_id in ids if env_id not in tried_before]:
            row = tried(env_id, config.timeout)
            done = " ".join(stage for stage in STAGES if row[stage])
            console.print(f"{name} {env_id}: {done} {row['refusal']}", markup=False)
            _keep({"suite": name, "version": _version(suite.distribution), "of": str(count), **row})
    write_text(PAGE, page_of(read_csv(RESULTS)))
    return 0


def _keep(row: dict[str, str]) -> None:
    """Put a row in the place of the one of the same id; whatever stops the command later, it is kept."""
    rows = [one for one in read_csv(RESULTS) if (one["suite"], one["id"]) != (row["suite"], row["id"])]
    names = list(SUITES)
    write_csv(RESULTS, sorted([*rows, row], key=lambda one: (names.index(one["suite"]), one["id"])))


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "checkout"


if __name__ == "__main__":
    run_command(main)
