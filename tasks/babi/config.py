"""Options of question answering over bAbI stories, read without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agents.core_options import CoreOptions
from agents.options import check_at_least, option
from envs.errors import UserError
from tasks.babi.generate import GENERATORS
from tasks.config import TaskConfig

GENERATED = "generated"
"""In the place of a data directory: stories of `tasks.babi.generate`."""
ALL_TASKS = tuple(range(1, 21))
WINDOW = 350
"""Tokens that are kept before a question, at least."""


@dataclass(frozen=True)
class BabiConfig(TaskConfig, CoreOptions):
    """Options of question answering."""

    data: str = option(
        GENERATED,
        "directory with the official files qa1_train.txt, ...; the default needs no files",
        metavar="DIR",
    )
    tasks: str = option("all", 'tasks that one model learns: numbers as in "1,2,3", or "all"')
    embedding_size: int = option(32, "size of a word embedding")
    window: int = option(
        WINDOW, "minimum number of tokens before a question; longer stories are split into windows"
    )
    late_starts: float = option(
        0.7,
        "fraction of training stories that start at a random sentence; questions that lose a fact are not asked",
    )
    word_answers: bool = option(False, 'an answer of several words, as "n,w", fills one blank per word')

    MAY_CHANGE: ClassVar[tuple[str, ...]] = (*TaskConfig.MAY_CHANGE, "data")

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        CoreOptions.__post_init__(self)
        check_at_least(self, 1, "embedding_size", "window")
        if not 0.0 <= self.late_starts <= 1.0:
            raise UserError(f"--late-starts must be a fraction between 0 and 1, got {self.late_starts}")
        self.task_numbers()

    def task_numbers(self) -> tuple[int, ...]:
        """The chosen tasks in order; raises UserError."""
        known = tuple(GENERATORS) if self.data == GENERATED else ALL_TASKS
        if self.tasks == "all":
            return known
        chosen = tuple(sorted(set(parse_tasks(self.tasks))))
        for task in chosen:
            if task not in known:
                raise UserError(
                    f"--tasks: task {task} needs the official files, given by --data; "
                    f"without them there are the tasks {', '.join(map(str, known))}"
                )
        return chosen


def parse_tasks(text: str) -> list[int]:
    """The numbers in "1,2,3", in their order, or those of all tasks; raises UserError."""
    if text == "all":
        return list(ALL_TASKS)
    try:
        tasks = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f'--tasks must be numbers such as "1,2,3", or "all", got {text!r}') from None
    for task in tasks:
        if task not in ALL_TASKS:
            raise UserError(f"--tasks: bAbI has tasks 1 to 20, got {task}")
    return tasks
