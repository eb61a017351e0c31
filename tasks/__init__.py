"""Supervised tasks: what can be trained with `train_task.py`, each a name, its options and the place of its builder.

No task is imported here, so that a command line is read, and refused, before PyTorch is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.babi.config import BabiConfig
from tasks.config import CurveFitConfig, PrototypesConfig, SymbolConfig
from tasks.task import TaskEntry

if TYPE_CHECKING:
    from tasks.babi.task import BabiTask
    from tasks.curve_fit import CurveFit
    from tasks.prototypes import Prototypes
    from tasks.symbol_task import SymbolSequences
    from tasks.task import Builder

    BUILDERS: tuple[Builder, ...] = (CurveFit, Prototypes, SymbolSequences, BabiTask)
    """What the places below name, so that a type checker sees that each builds a task."""

SYMBOLS: dict[str, Any] = {
    "steps": 6_000,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "anneal": True,
    "log_every": 250,
    "hidden_size": 64,
    "memory_size": 32,
    "embedding_size": 32,
    # Large first keys and no loss of the memory's own: with either missing, learning waits: docs/tasks.md.
    "interaction_gain": 3.0,
    "meta_coef": 0.0,
}
"""Defaults of the three tasks on sequences of symbols."""

TASKS: dict[str, TaskEntry] = {
    "curve-fit": TaskEntry(
        "fit a noisy quadratic by numbers read from a bank at hard addresses",
        CurveFitConfig(
            task="curve-fit", steps=600, batch_size=512, learning_rate=1e-2, anneal=True, log_every=50
        ),
        "tasks.curve_fit:CurveFit",
    ),
    "prototypes": TaskEntry(
        "compare an image with one prototype, read from a bank of images at a hard address",
        PrototypesConfig(
            task="prototypes", steps=1_500, batch_size=128, learning_rate=1e-2, anneal=True, log_every=100
        ),
        "tasks.prototypes:Prototypes",
    ),
    "dictionary": TaskEntry(
        "infer a mapping of symbols from examples, apply it to a query",
        SymbolConfig(task="dictionary", min_items=1, max_items=4, **SYMBOLS),
        "tasks.symbol_task:SymbolSequences",
    ),
    "copy": TaskEntry(
        "repeat a sequence of symbols",
        SymbolConfig(task="copy", min_items=1, max_items=10, **SYMBOLS),
        "tasks.symbol_task:SymbolSequences",
    ),
    "associative-recall": TaskEntry(
        "name the item that came after the queried one",
        SymbolConfig(task="associative-recall", min_items=2, max_items=4, max_item_length=2, **SYMBOLS),
        "tasks.symbol_task:SymbolSequences",
    ),
    "babi": TaskEntry(
        "answer questions about stories that are read word by word",
        BabiConfig(
            task="babi",
            batch_size=32,
            learning_rate=3e-3,
            anneal=True,
            hidden_size=64,
            memory_size=32,
            # As for the symbols: learning waits longer otherwise.
            meta_coef=0.0,
            interaction_gain=3.0,
            log_every=250,
        ),
        "tasks.babi.task:BabiTask",
    ),
}
