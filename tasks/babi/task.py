"""Question answering over bAbI stories as a task of the supervised loop.

    python train_task.py babi --data DIR --tasks 1,2,3 --core mnm-p      official files qa1_train.txt, ...
    python train_task.py babi                                            generated stories, no data needed

One model for all chosen tasks reads every story word by word and fills the blanks: cross entropy there and
nowhere else, plus the memory's own loss. The validation files choose the checkpoint; the test files are
looked at once, at the end.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from agents.core_options import CoreOptions
from agents.files import write_csv, write_text
from agents.options import check_at_least, option
from envs.errors import UserError
from recall.render.similarity import draw_similarity
from tasks.babi.generate import GENERATORS, generate
from tasks.babi.reader import SPLITS, Story, read_split, read_text
from tasks.babi.scores import Errors, error_rows, error_table
from tasks.babi.sequences import WINDOW, BabiBatch, Sampler, Vocabulary, encode, in_batches
from tasks.babi.writes import maps_of_story, pairs_of_words, story_to_show
from tasks.config import TaskConfig
from tasks.sequence_model import SequenceModel, sequence_loss

GENERATED = "generated"
"""In the place of a data directory: stories of `tasks.babi.generate`."""
ALL_TASKS = tuple(range(1, 21))
GENERATED_STORIES = {"train": 1_800, "valid": 200, "test": 200}
"""As many as the official files of most tasks hold."""
EVALUATION_BATCH = 200


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


class BabiTask:
    """The chosen tasks, and one model for all of them."""

    def __init__(self, config: BabiConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        stories = {split: read_stories(config, split) for split in SPLITS}
        self.vocabulary = Vocabulary.of([story for part in stories.values() for story in part])
        self.samples = {
            split: encode(part, self.vocabulary, config.window) for split, part in stories.items()
        }
        self.shown = story_to_show(self.vocabulary, stories["test"][0])
        self.sampler = Sampler(self.samples["train"], config.batch_size, config.late_starts)
        words, answers = len(self.vocabulary.words), len(self.vocabulary.answers)
        self.model = SequenceModel(words, answers, config.embedding_size, config.core_config()).to(device)

    def draw(self, generator: torch.Generator) -> BabiBatch:
        """Stories of similar length, from all chosen tasks."""
        batch = self.sampler.draw(generator)
        return batch._replace(sequence=self.model.with_noise(batch.sequence, generator).to(self.device))

    def loss(self, batch: BabiBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy of the answers and the memory's own loss."""
        self.model.core.set_progress(progress)
        return sequence_loss(self.model(batch.sequence), batch.sequence, self.config.meta_coef)

    def evaluate(self) -> dict[str, float]:
        """Errors on the validation files; the score is the mean accuracy over tasks."""
        errors = self.errors("valid")
        each = (
            {f"error_task{task}": errors.of(task) for task in errors.asked} if len(errors.asked) > 1 else {}
        )
        return {"score": errors.mean_accuracy, "mean_error": errors.mean, "failed": errors.failed, **each}

    def errors(self, split: str) -> Errors:
        """Wrong answers of the model on a whole split."""
        wrong: Counter[int] = Counter()
        asked: Counter[int] = Counter()
        for batch in in_batches(self.samples[split], EVALUATION_BATCH):
            sequence = batch.sequence.to(self.device)
            is_wrong = self.model(sequence).logits.argmax(-1) != sequence.targets[sequence.answer]
            # A question is wrong if one of its blanks is.
            failed = torch.zeros(len(batch.tasks), dtype=torch.bool)
            failed[batch.questions[is_wrong.cpu()]] = True
            asked.update(batch.tasks.tolist())
            wrong.update(batch.tasks[failed].tolist())
        return Errors(wrong, {task: asked[task] for task in sorted(asked)})

    def finish(self, directory: Path) -> dict[str, Any]:
        """Errors of both splits as errors.csv and errors.md; writes.png and writes.csv if the core writes."""
        valid, test = self.errors("valid"), self.errors("test")
        write_csv(directory / "errors.csv", error_rows(valid, test))
        write_text(directory / "errors.md", error_table(valid, test) + "\n")
        if self.model.core.writes:
            maps = maps_of_story(self.model, self.vocabulary, self.shown)
            draw_similarity(
                maps, directory / "writes.png", labels=self.shown.tokens, breaks=self.shown.sentences[1:]
            )
            write_csv(directory / "writes.csv", pairs_of_words(maps, self.shown))
        return {
            "stories": "generated" if self.config.data == GENERATED else "from files",
            "valid_mean_error": valid.mean,
            "test_mean_error": test.mean,
            "test_failed_tasks": test.failed,
            **{f"test_error_task{task}": test.of(task) for task in test.asked},
        }


def read_stories(config: BabiConfig, split: str) -> list[Story]:
    """The stories of the chosen tasks, from the files or generated; raises UserError."""
    tasks = config.task_numbers()
    if config.data != GENERATED:
        return read_split(Path(config.data), tasks, split, config.word_answers)
    return [
        story
        for task in tasks
        for story in read_text(
            generate(task, GENERATED_STORIES[split], split), task, f"generated task {task}"
        )
    ]
