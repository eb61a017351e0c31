"""Options of the supervised tasks: dataclasses whose fields become a command line and config.json.

They stand apart from the tasks so that a command line is read, and refused, before PyTorch is loaded. Those of
bAbI are in `tasks.babi.config`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from agents.core_options import CoreOptions
from agents.options import check_at_least, check_numbers, option
from envs.errors import UserError

SHAPE_COUNT = 8
"""How many shapes `tasks.shapes` draws."""


@dataclass(frozen=True)
class TaskConfig:
    """The effective configuration of a run; a task adds its own options by deriving from this ONCE.

    A task with a memory core derives from `TaskConfig` and `agents.core_options.CoreOptions`, one with hard addresses
    from `TaskConfig` and `AddressOptions`.
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


@dataclass(frozen=True)
class AddressOptions:
    """How the address network gets its gradient."""

    estimator: Literal["st", "gumbel-rao", "reinmax", "reinforce", "exact"] = option(
        "st", "estimator of the gradient through the choice; exact enumerates all cells"
    )
    gumbel_samples: int = option(8, "gumbel-rao: noise samples per choice")
    tau_start: float = option(2.0, "temperature at the start")
    tau_end: float = option(
        0.3, "temperature at the end, approached geometrically; equal to the first: fixed"
    )

    def __post_init__(self) -> None:
        check_at_least(self, 1, "gumbel_samples")
        for name in ("tau_start", "tau_end"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class CurveFitConfig(TaskConfig, AddressOptions):
    """Options of the curve fit."""

    cells: int = option(5, "numbers in the bank, evenly spaced on [0, 1]")
    learn_bank: bool = option(False, "also train the numbers")
    noise: float = option(0.01, "standard deviation of the noise on y")
    hidden_size: int = option(64, "units per hidden layer")
    layers: int = option(3, "hidden layers, each linear, batch norm, ReLU")

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        AddressOptions.__post_init__(self)
        check_at_least(self, 1, "cells", "hidden_size", "layers")
        check_at_least(self, 0, "noise")
        check_at_least(self, 2, "batch_size")


@dataclass(frozen=True)
class PrototypesConfig(TaskConfig, AddressOptions):
    """Options of the prototype comparison."""

    read: Literal["hard", "soft"] = option("hard", "one prototype, or (for comparison) a softmax mixture")
    shapes: int = option(SHAPE_COUNT, "prototypes in the bank")
    defects: int = option(3, "maximum number of inverted 3 x 3 squares in a user image")
    noise: float = option(0.1, "standard deviation of the noise on every pixel")
    hidden_size: int = option(64, "units per hidden layer")
    layers: int = option(2, "hidden layers, each linear, batch norm, ReLU")
    test_examples: int = option(4_096, "user images in the test set")

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        AddressOptions.__post_init__(self)
        check_at_least(self, 1, "hidden_size", "layers", "test_examples")
        check_at_least(self, 0, "noise", "defects")
        check_at_least(self, 2, "batch_size", "shapes")
        if self.shapes > SHAPE_COUNT:
            raise UserError(f"--shapes must be at most {SHAPE_COUNT}, got {self.shapes}")


@dataclass(frozen=True)
class SymbolConfig(TaskConfig, CoreOptions):
    """Options of dictionary inference, copy and associative recall."""

    symbols: int = option(26, "size of the alphabet")
    min_items: int = option(4, "minimum number of items (dictionary: pairs) of a training sequence")
    max_items: int = option(4, "maximum number of items of a training sequence")
    min_item_length: int = option(1, "minimum number of symbols of an item in training")
    max_item_length: int = option(1, "maximum number of symbols of an item in training")
    embedding_size: int = option(64, "size of a symbol embedding")
    valid_examples: int = option(256, "validation sequences per trained size")
    test_examples: int = option(1_000, "test sequences per size")

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        CoreOptions.__post_init__(self)
        check_at_least(self, 2, "symbols")
        check_at_least(
            self, 1, "min_items", "min_item_length", "embedding_size", "valid_examples", "test_examples"
        )
        if self.task == "associative-recall":
            check_at_least(self, 2, "min_items")
        for name in ("items", "item_length"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low > high:
                flag = name.replace("_", "-")
                raise UserError(f"--min-{flag} {low} is larger than --max-{flag} {high}")
