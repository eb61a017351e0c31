"""What the supervised loop asks of a task, and what the list of tasks knows about one.

The loop owns the optimizer, the random stream, checkpoints, logs and the run directory. A task owns its
model, its data and its figures. Everything random in training comes from the generator given to `draw` (put
the noise of an estimator into the batch), so that a resumed run continues bit for bit.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from tasks.config import TaskConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Task(Protocol):
    """One supervised task; the loop calls `draw` and `loss` at every update."""

    @property
    def model(self) -> nn.Module:
        """What is trained and stored; built in the constructor, on the device given there."""

    def draw(self, generator: torch.Generator) -> Any:
        """A training batch; `generator` lives on the CPU."""

    def loss(self, batch: Any, progress: float) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """The loss to minimise and figures to log, always the same names; progress in [0, 1) drives schedules."""

    def evaluate(self) -> Mapping[str, float]:
        """Figures on data kept for choosing; "score" (higher is better) chooses the checkpoint `best`.

        Called without gradients, in evaluation mode, and must draw nothing from a global random stream.
        """

    def finish(self, directory: Path) -> Mapping[str, Any]:
        """Test figures of the best weights, for result.json; writes tables and pictures into `directory`.

        Called without gradients, in evaluation mode, once all updates are made.
        """


Builder: TypeAlias = "Callable[[Any, torch.device], Task]"
"""(configuration, device) -> task. Weights may be drawn from PyTorch's global stream: the loop seeds it."""


@dataclass(frozen=True)
class TaskEntry:
    """A line of the list of tasks."""

    summary: str
    """What is learned, in one line of --help."""
    defaults: TaskConfig
    """The task's options with its own defaults; the class of this instance is the class of its configuration."""
    place: str
    """module:name of its `Builder`, such as the class of the task."""

    def build(self, config: TaskConfig, device: torch.device) -> Task:
        """The task of a configuration of the class of `defaults`."""
        module, _, name = self.place.partition(":")
        make: Builder = getattr(importlib.import_module(module), name)
        return make(config, device)
