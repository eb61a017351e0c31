"""The form of a check, and every threshold that decides one: fixed before any run was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from recall.validate.ranking import RankingResult

Outcome = Literal["PASS", "FAIL", "NOT APPLICABLE"]
STYLE = {"PASS": "green", "FAIL": "bold red", "NOT APPLICABLE": "dim"}


@dataclass(frozen=True)
class Limits:
    """Thresholds of the validity report. They were set before the first report was run."""

    success: float = 0.95
    """A recall of the cue is demanded only of agents that reach the cue's reward in this share of episodes."""
    hit_1: float = 0.9
    """A score passes the planted cue if it ranks the cue's step first in this share of episodes."""
    top_k: int = 5
    """Size of the sets of writes that are deleted or kept together."""
    deletion_flips: float = 0.8
    """Deleting the top k must change the greedy action in at least this share of episodes."""
    random_flips: float = 0.1
    """Deleting k matched random writes must change it in at most this share."""
    keep_agrees: float = 0.8
    """Keeping only the top k must leave the greedy action as it was in at least this share of episodes."""
    above_baseline: float = 0.1
    """An untrained agent and permuted writes may exceed the best blind baseline in hit@1 by this much."""
    cue_flips: float = 0.9
    """The other cue must change the action at the decision step in at least this share of episodes."""
    recalled_in_both: float = 0.8
    """In at least this share the cue's step must be ranked first with either cue."""
    read_off_flips: float = 0.1
    """With the read switched off, the other cue may change the action in at most this share of episodes."""
    not_used_probability: float = 0.02
    """If v_r := v_0 moves no action's probability by more, the memory counts as not used."""
    use_share: float = 0.05
    """Below this share |v_r - v_0| / |v_r| the memory counts as not used, too."""
    not_used: float = 0.9
    """On a fully observed task the memory must count as not used at the decision in this share of episodes."""
    wiped_flips: float = 0.25
    """Wiping the memory before the decision must change the action in this share of episodes. With two equally
    frequent cues, an agent that falls back on one fixed action reaches 0.5 at most."""
    residual: float = 0.3
    """Above this median interaction residual the removal of single writes does not explain the read."""


@dataclass(frozen=True)
class Check:
    """One check of the report."""

    name: str
    outcome: Outcome
    figure: str
    """What was found."""
    threshold: str
    """What was demanded."""
    values: dict[str, Any] = field(default_factory=dict)
    """The numbers behind the figure."""


def decide(name: str, passed: bool, figure: str, threshold: str, **values: Any) -> Check:
    """A check that could be made."""
    return Check(name, "PASS" if passed else "FAIL", figure, threshold, values)


def not_applicable(name: str, reason: str) -> Check:
    """A check that could not be made here, and why."""
    return Check(name, "NOT APPLICABLE", reason, "")


def verdict_of(checks: Sequence[Check], needed: str, shown: str) -> str:
    """The checks in one sentence; `needed` is the check without which nothing is shown, `shown` what it means."""
    failed = [check.name for check in checks if check.outcome == "FAIL"]
    made = sum(check.outcome != "NOT APPLICABLE" for check in checks)
    outcomes = {check.name: check.outcome for check in checks}
    if failed:
        return f"NOT VALID: {len(failed)} of the {made} checks that apply here failed ({'; '.join(failed)})"
    if outcomes[needed] != "PASS":
        return "NOT SHOWN: no check failed, but the planted cue, without which nothing is shown, could not be tried"
    return f"VALID: all {made} checks that apply here passed; {shown}"


@dataclass(frozen=True)
class ValidityReport:
    """Everything that `--check-recall` found."""

    agent: dict[str, Any]
    """What was checked: environment, core, checkpoint, episodes, seed, success."""
    limits: Limits
    rankings: list[RankingResult]
    """Comparison of scores and baselines on the planted cue; empty where there is none."""
    checks: list[Check]
    verdict: str
    measures: dict[str, Any]
    """Further figures: residuals, use share, deletion and wiping in numbers."""

    @property
    def valid(self) -> bool:
        """No check failed, and the planted cue was among those that passed."""
        return self.verdict.startswith("VALID")

    def outcome(self, name: str) -> Outcome:
        """The outcome of the check with this name."""
        return next(check.outcome for check in self.checks if check.name == name)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "agent": self.agent,
            "verdict": self.verdict,
            "valid": self.valid,
            "checks": [asdict(check) for check in self.checks],
            "rankings": [result.to_json() for result in self.rankings],
            "measures": self.measures,
            "thresholds": asdict(self.limits),
        }

    def print(self, console: Console) -> None:
        """The report as tables, ending with the verdict."""
        if self.rankings:
            console.print(_ranking_table(self.rankings))
        console.print(_check_table(self.checks))
        for name, value in self.measures.items():
            console.print(f"{name}: {value}", highlight=False)
        console.print(f"Verdict: {self.verdict}", style="bold", highlight=False)


def _shown(row: RankingResult) -> str:
    """hit@1 at the decisions of which the panel is not grey, and how many those are."""
    if row.shown is None or row.hit_1_shown is None:
        return ""
    return f"{row.hit_1_shown.mean:.2f} in {row.shown:.0%}"


def _ranking_table(rankings: list[RankingResult]) -> Table:
    table = Table(
        title="Which ranking finds the planted cue? (95% bootstrap intervals)", title_justify="left"
    )
    for column in (
        "ranking",
        "hit@1",
        "hit@5",
        "where not grey",
        "MRR",
        "within 1",
        "within 2",
        "hit@1 by cue",
        "seconds",
    ):
        table.add_column(column)
    for row in rankings:
        by_cue = " ".join(f"{cue}: {value:.2f}" for cue, value in row.by_cue.items())
        table.add_row(
            row.name, str(row.hit_1), str(row.hit_5), _shown(row), str(row.mrr),
            f"{row.near_1:.2f}", f"{row.near_2:.2f}", by_cue, f"{row.seconds:.2f}" if row.seconds else "-",
        )  # fmt: skip
    return table


def _check_table(checks: list[Check]) -> Table:
    table = Table(title="Checks", title_justify="left")
    for column in ("check", "outcome", "found", "demanded"):
        table.add_column(column)
    for check in checks:
        table.add_row(
            check.name, f"[{STYLE[check.outcome]}]{check.outcome}[/]", check.figure, check.threshold
        )
    return table
