"""Errors per task in the form in which the literature reports bAbI: per cent, mean, number of failed tasks.

A question counts as right if all its answers are. A task counts as failed if its error is above 5%.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FAILED_ABOVE = 5.0
"""Per cent of wrong answers above which a task counts as failed."""
TASK_NAMES = {
    1: "1 supporting fact",
    2: "2 supporting facts",
    3: "3 supporting facts",
    4: "2 argument relations",
    5: "3 argument relations",
    6: "yes/no questions",
    7: "counting",
    8: "lists/sets",
    9: "simple negation",
    10: "indefinite knowledge",
    11: "basic coreference",
    12: "conjunction",
    13: "compound coreference",
    14: "time reasoning",
    15: "basic deduction",
    16: "basic induction",
    17: "positional reasoning",
    18: "size reasoning",
    19: "path finding",
    20: "agent's motivations",
}


@dataclass(frozen=True)
class Errors:
    """Wrong answers of one split."""

    wrong: Mapping[int, int]
    """Task -> questions answered wrongly."""
    asked: Mapping[int, int]
    """Task -> questions."""

    def of(self, task: int) -> float:
        """Error of a task in per cent."""
        return 100.0 * self.wrong[task] / self.asked[task]

    @property
    def mean(self) -> float:
        """Mean of the tasks' errors in per cent."""
        return sum(self.of(task) for task in self.asked) / len(self.asked)

    @property
    def failed(self) -> int:
        """Number of tasks with an error above 5%."""
        return sum(self.of(task) > FAILED_ABOVE for task in self.asked)

    @property
    def mean_accuracy(self) -> float:
        """1 minus the mean error, as a fraction."""
        return 1.0 - self.mean / 100.0


def error_table(valid: Errors, test: Errors) -> str:
    """Markdown: a row per task, then the mean and the number of failed tasks."""
    lines = ["| task | validation error % | test error % |", "|---|---|---|"]
    lines += [
        f"| {task}: {TASK_NAMES[task]} | {valid.of(task):.1f} | {test.of(task):.1f} |" for task in test.asked
    ]
    lines += [
        f"| mean error % | {valid.mean:.2f} | {test.mean:.2f} |",
        f"| failed tasks (error > {FAILED_ABOVE:.0f}%) | {valid.failed} | {test.failed} |",
    ]
    return "\n".join(lines)


def error_rows(valid: Errors, test: Errors) -> list[dict[str, object]]:
    """The same as rows of a CSV, without the summary."""
    return [
        {
            "task": task,
            "name": TASK_NAMES[task],
            "questions": test.asked[task],
            "valid_error": round(valid.of(task), 3),
            "test_error": round(test.of(task), 3),
        }
        for task in test.asked
    ]
