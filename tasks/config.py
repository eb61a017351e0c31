"""The options that every supervised task shares, in one frozen dataclass that is also its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from agents.options import check_at_least, check_numbers, option
from envs.errors import UserError


@dataclass(frozen=True)
class TaskConfig:
    """The effective configuration of a run; a task adds its own options by deriving from this ONCE.

    A task with a memory core derives from `TaskConfig` and `agents.core_options.CoreOptions`.
    """

    task: str = option("", "task to train")
    steps: int = option(5_000, "updates to train for")
    batch_size: int = option(64, "examples per update", most=10**6)
    learning_rate: float = option(1e-3, "learning rate of Adam", most=10.0)
    anneal: bool = option(False, "anneal the learning rate linearly to 0 over --steps")
    max_grad_norm: float = option(10.0, "maximum gradient norm")
    stop_at: float | None = option(
        None, "end before --steps once the validation score reaches this", metavar="X"
    )
    seed: int = option(0, "seed of weights, batches and noise")
    log_every: int = option(100, "updates between evaluations (rows of metrics.csv)")
    checkpoint_every: int = option(500, "updates between checkpoints")
    keep_checkpoints: int = option(2, "checkpoints that are kept, the latest and those before it", most=1000)
    device: Literal["auto", "cpu", "cuda"] = option("auto", "device of the model")
    threads: int = option(
        1, "threads of PyTorch on the CPU; its products are small here, and 0 lets PyTorch choose", most=1024
    )
    run_dir: str | None = option(
        None, "directory of the run; runs/TASK-sSEED or runs/TASK-CORE-sSEED if not given", metavar="DIR"
    )

    MAY_CHANGE: ClassVar[tuple[str, ...]] = (
        "steps", "stop_at", "learning_rate", "anneal", "max_grad_norm", "log_every", "checkpoint_every",
        "keep_checkpoints", "device",
        "threads", "run_dir", "implementation",
    )  # fmt: skip
    """Options that a resumed run may change; all others are kept."""

    def __post_init__(self) -> None:
        check_numbers(self)
        check_at_least(self, 1, "steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints")
        check_at_least(self, 0, "threads", "seed")
        if self.learning_rate <= 0.0 or self.max_grad_norm <= 0.0:
            raise UserError("--learning-rate and --max-grad-norm must be positive")

    def directory(self) -> Path:
        """Where the run is kept."""
        if self.run_dir is not None:
            return Path(self.run_dir)
        core = getattr(self, "core", None)
        name = "-".join(part for part in (self.task, core, f"s{self.seed}") if part)
        return Path("runs") / name.replace(":", "-")
