"""Make a published agent of a training run: weights, configuration, and a card with what it was measured to do.

    python -m benchmarks.tools.publish runs/studies/maze-9-mnm-p-s0 --name maze-mnm-p --checkpoint best
    python -m benchmarks.tools.publish runs/s17 --name memory-s17-mnm-p --also MiniGrid-MemoryS11-v0
    python -m benchmarks.tools.publish pretrained/maze-mnm-p --recalls-only     its recall check again

The card's figures come from held-out levels, played here and now. `pretrained/NAME` is what evaluate.py takes.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agents.config import TrainConfig
from agents.evaluation import LoadedAgent, load_agent, moved_to, play_episodes, report
from agents.files import write_text
from agents.options import option, parse, run_command
from agents.pretrained import CHECKSUM, WEIGHTS, file_digest, save_weights
from benchmarks.common import ROOT, require_clean_tree
from benchmarks.report.seed_statistics import wilson
from envs.errors import UserError
from recall.validate.validity import check_recall

WARM_STARTED = (
    "Begun with the weights of an earlier stage, not counted here: [results](../../docs/results.md)."
)
RECALLS = "## Recalls"
EVALUATION_SEED = 1
"""The levels of the card; the slow test of the published agents plays another block."""


@dataclass(frozen=True)
class PublishConfig:
    """Options of the command."""

    run_dir: str = option("", "directory of the training run")
    name: str = option("", "name of the published agent", metavar="NAME")
    checkpoint: str = option("latest", "latest, best or the path of a checkpoint")
    also: str = option("", "further environments to play, separated by commas", metavar="IDS")
    episodes: int = option(1_000, "held-out episodes per environment and policy")
    recall_episodes: int = option(100, "held-out episodes of the recall check, where there is a write memory")
    control: str | None = option(
        None, "for the recall check: a run trained where the cue stays visible", metavar="DIR"
    )
    seeds: str = option("", "what the card says of the other seeds of this run", metavar="TEXT")
    recalls_only: bool = option(
        False, "renew the recall check on the card of a published agent, and nothing else", switch=True
    )


def figures(agent: LoadedAgent, env: str, episodes: int) -> list[dict[str, Any]]:
    """What the agent does in one environment, greedily and sampled."""
    playing = moved_to(agent, env)
    found = []
    for policy in ("greedy", "sample"):
        result = report(
            playing, play_episodes(playing, episodes, policy, EVALUATION_SEED), policy, EVALUATION_SEED
        )
        kept = (
            "env",
            "policy",
            "episodes",
            "success_rate",
            "return_mean",
            "return_interval_95",
            "length_mean",
        )
        row = {name: result[name] for name in kept}
        if row["success_rate"] is not None:
            low, high = wilson(round(row["success_rate"] * episodes), episodes)
            row["success_interval_95"] = [low, high]
        found.append(row)
    return found


def without_paths(config: TrainConfig) -> TrainConfig:
    """The configuration without the places of the machine that trained it."""
    warm_start = config.warm_start
    if warm_start is not None and Path(warm_start).is_relative_to(ROOT):
        warm_start = str(Path(warm_start).relative_to(ROOT))
    return dataclasses.replace(config, run_dir=None, warm_start=warm_start)


def training_command(config: TrainConfig) -> str:
    """The command that trains this configuration: every option that differs from its default."""
    words = ["python", "train_rl.py"]
    for field in dataclasses.fields(TrainConfig):
        value = getattr(config, field.name)
        if value == field.default or field.name in ("run_dir", "threads", "log_every", "checkpoint_every"):
            continue
        flag = "--" + field.name.replace("_", "-")
        words += (
            [flag.replace("--", "--" if value else "--no-", 1)]
            if isinstance(value, bool)
            else [flag, str(value)]
        )
    return shlex.join(words)


def recall_lines(agent: LoadedAgent, episodes: int, control: LoadedAgent | None) -> list[str]:
    """The recall check of the agent, as lines of its card."""
    found = check_recall(agent, episodes, control=control).to_json()
    lines = [RECALLS, "", f"`--check-recall` on {episodes} held-out episodes: {found['verdict']}.", ""]
    if control is not None:
        lines += [
            "The control agent was trained with",
            "",
            f"    {training_command(without_paths(control.config))}",
            "",
        ]
    lines += ["| check | outcome | figure |", "|---|---|---|"]
    return lines + [f"| {c['name']} | {c['outcome']} | {c['figure']} |" for c in found["checks"]]


def card(
    name: str,
    agent: LoadedAgent,
    commit: str,
    rows: Sequence[dict[str, Any]],
    recall: Sequence[str],
    seeds: str,
) -> str:
    """The README.md of a published agent."""
    parameters = sum(p.numel() for p in agent.model.parameters())
    lines = [
        f"# {name}",
        "",
        f"`{agent.config.core}`, {parameters:,} parameters, {agent.frames:,} frames in `{agent.config.env}`.",
        "",
        f"    python evaluate.py pretrained/{name} --episodes 100 --gif recall.gif",
        "",
        f"Trained at commit {commit} with",
        "",
        f"    {training_command(without_paths(agent.config))}",
        "",
        *([WARM_STARTED, ""] if agent.config.warm_start else []),
        *([seeds, ""] if seeds else []),
        f"On held-out levels (`benchmarks/tools/publish.py`, evaluation seed {EVALUATION_SEED}):",
        "",
        "| environment | policy | episodes | success (95%) | return (95%) | length |",
        "|---|---|---|---|---|---|",
        *map(_figure_line, rows),
        "",
        *recall,
    ]
    return "\n".join(lines) + "\n"


def _figure_line(row: dict[str, Any]) -> str:
    low, high = row["return_interval_95"]
    success = "-"
    if row["success_rate"] is not None:
        s_low, s_high = row["success_interval_95"]
        success = f"{row['success_rate']:.3f} ({s_low:.3f} to {s_high:.3f})"
    return (
        f"| {row['env']} | {row['policy']} | {row['episodes']:,} | {success} | "
        f"{row['return_mean']:.3f} ({low:.3f} to {high:.3f}) | {row['length_mean']:.1f} |"
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(PublishConfig(), argv, description=__doc__ or "", positional="run_dir")
    run, directory = Path(config.run_dir), ROOT / "pretrained" / config.name
    published = run / "README.md"
    if config.recalls_only and not published.is_file():
        raise UserError(f"{run} has no card: --recalls-only takes the directory of a published agent")
    if not config.name and not config.recalls_only:
        raise UserError("give the published agent a --name")
    agent = load_agent(run, config.checkpoint, torch.device("cpu"))
    control = (
        None if config.control is None else load_agent(Path(config.control), "latest", torch.device("cpu"))
    )
    require_clean_tree()
    if config.recalls_only:
        kept = published.read_text().partition(RECALLS)[0].rstrip()
        recall = recall_lines(agent, config.recall_episodes, control)
        write_text(published, "\n".join([kept, "", *recall]) + "\n")
        return 0
    stored = json.loads((run / "config.json").read_text())
    envs = [agent.config.env, *(env for env in config.also.split(",") if env)]
    rows = [row for env in envs for row in figures(agent, env, config.episodes)]
    size = save_weights(directory, agent.model.state_dict(), agent.frames)
    plain = {
        **stored,
        "config": dataclasses.asdict(without_paths(agent.config)),
        CHECKSUM: file_digest(directory / WEIGHTS),
        "figures": rows,
    }
    plain.pop("modules", None)
    write_text(directory / "config.json", json.dumps(plain, indent=2) + "\n")
    recall = recall_lines(agent, config.recall_episodes, control)
    write_text(
        directory / "README.md", card(config.name, agent, stored["commit"], rows, recall, config.seeds)
    )
    print(f"{directory}: {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    run_command(main)
