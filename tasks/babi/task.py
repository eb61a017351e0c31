"""Question answering over bAbI stories as a task of the supervised loop.

    python train_task.py babi --data DIR --tasks 1,2,3 --core mnm-p      official files qa1_train.txt, ...
    python train_task.py babi                                            generated stories, no data needed

One model for all chosen tasks reads every story word by word and fills the blanks: cross entropy there and
nowhere else, plus the memory's own loss. The validation files choose the checkpoint; the test files are
looked at once, at the end.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.files import write_csv, write_text
from recall.render.similarity import draw_similarity
from tasks.babi.config import GENERATED, BabiConfig
from tasks.babi.generate import generate
from tasks.babi.reader import SPLITS, Story, read_split, read_text
from tasks.babi.scores import Errors, error_rows, error_table
from tasks.babi.sequences import BabiBatch, Sampler, Vocabulary, encode, in_batches
from tasks.babi.writes import maps_of_story, pairs_of_words, story_to_show
from tasks.sequence_model import SequenceModel, sequence_loss

GENERATED_STORIES = {"train": 1_800, "valid": 200, "test": 200}
"""As many as the official files of most tasks hold."""
EVALUATION_BATCH = 200


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
