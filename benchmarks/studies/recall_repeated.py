"""Does the verdict of the recall check hold on other episodes? Several agents, several blocks of held-out episodes.

    python -m benchmarks.studies.recall_repeated --agents pretrained/three-arms-mnm-p --control pretrained/visible-mnm-p
    python -m benchmarks.studies.recall_repeated --agents pretrained/memory-s13-mnm-p --blocks 0 --episodes 100
    python -m benchmarks.studies.recall_repeated --summary               print the table from the committed CSV

Writes benchmarks/results/recall_blocks.csv, a row per agent and block (`evaluate.py --seed`); rows that are
measured again are replaced, all others stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agents.evaluation import LoadedAgent, load_agent
from agents.files import read_csv, renew_csv
from agents.options import check_at_least, option, parse, run_command
from benchmarks.common import RESULTS_DIR, machine_columns, numbers_in, require_clean_tree
from envs.errors import UserError
from recall.validate.checks import ValidityReport
from recall.validate.ranking import BLIND_BASELINES, R2
from recall.validate.validity import check_recall

RESULTS = RESULTS_DIR / "recall_blocks.csv"


@dataclass(frozen=True)
class BlocksConfig:
    """Options of the command."""

    agents: str = option("", "directories of runs or published agents, separated by commas", metavar="DIRS")
    control: str | None = option(None, "a run trained where the cue stays visible", metavar="DIR")
    blocks: str = option("0,3,5,8", "blocks of held-out episodes, numbers separated by commas", metavar="NS")
    episodes: int = option(200, "held-out episodes per block")
    summary: bool = option(False, "check nothing: print the table from the committed CSV", switch=True)

    def __post_init__(self) -> None:
        check_at_least(self, 1, "episodes")


def row_of(report: ValidityReport) -> dict[str, Any]:
    """What the table needs of a report; empty where there is no planted cue."""
    made = [check for check in report.checks if check.outcome != "NOT APPLICABLE"]
    rankings = {ranking.name: ranking for ranking in report.rankings}
    actions = report.measures.get("share of changed actions", {})
    wiped = report.measures.get("share of actions changed by wiping before the decision", {})
    returns = report.measures.get("mean return", {})
    row: dict[str, Any] = {
        "success": round(report.agent["success"], 3),
        "checks": len(made),
        "passed": sum(check.outcome == "PASS" for check in made),
        "failed": "; ".join(check.name for check in made if check.outcome == "FAIL"),
        "flips_top": actions.get("delete top"),
        "flips_random": actions.get("delete random"),
        "return_top": returns.get("delete top"),
        "return_random": returns.get("delete random"),
        "flips_memory_wiped": wiped.get("wipe memory"),
        "flips_controller_wiped": wiped.get("wipe controller"),
    }
    if R2 in rankings:
        found = rankings[R2]
        row["hit_R2"] = round(found.hit_1.mean, 3)
        row["hit_R2_by_cue"] = " ".join(f"{cue}:{hit:.2f}" for cue, hit in sorted(found.by_cue.items()))
        row["near_R2"] = round(found.near_1, 3)
        row["hit_blind"] = round(max(rankings[name].hit_1.mean for name in BLIND_BASELINES), 3)
    return row


def table() -> str:
    """A line per agent and block, from the CSV."""
    lines = [
        "| agent | block | checks passed | hit@1 R2 (by cue) | best blind | top 5 deleted: action, return | "
        "5 random: action, return | memory wiped | controller wiped |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in read_csv(RESULTS):
        lines.append(
            f"| {row['agent']} | {row['block']} | {row['passed']} of {row['checks']} | {row['hit_R2']} "
            f"({row['hit_R2_by_cue']}) | {row['hit_blind']} | {row['flips_top']}, {row['return_top']} | "
            f"{row['flips_random']}, {row['return_random']} | {row['flips_memory_wiped']} | "
            f"{row['flips_controller_wiped']} |"
        )
    return "\n".join(lines)


def load(directory: str) -> LoadedAgent:
    """The newest weights of a run, or those of a published agent."""
    return load_agent(Path(directory), "latest", torch.device("cpu"))


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(BlocksConfig(), argv, description=__doc__ or "")
    if not config.summary:
        if not config.agents:
            raise UserError(
                "--agents is needed: directories of runs or published agents, separated by commas"
            )
        blocks = numbers_in(config.blocks, "blocks")
        require_clean_tree()
        torch.set_num_threads(1)
        control = None if config.control is None else load(config.control)
        agents = {Path(name).name: load(name) for name in config.agents.split(",")}
        for name, agent in agents.items():
            for block in blocks:
                report = check_recall(agent, config.episodes, block, control)
                about = {
                    "agent": name,
                    "block": block,
                    "episodes": config.episodes,
                    "control": config.control or "",
                }
                row = {**about, **row_of(report), **machine_columns()}
                renew_csv(RESULTS, [row], ["agent", "block"])
    print(table())
    return 0


if __name__ == "__main__":
    run_command(main)
