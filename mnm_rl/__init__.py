"""The installed toolkit: one package that holds the others, each still known by its own short name.

`import mnm_rl` puts the folder of the toolkit first on `sys.path`; `import agents`, `import envs` and so on then
mean the toolkit's, whatever lies in the working directory. In the wheel that folder is this package, in a
checkout its parent. There is one copy of every module: `mnm_rl.agents` does not exist beside `agents`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import NoReturn

__all__ = ["HOME", "NAMES", "evaluate", "task", "train"]

NAMES = ("agents", "envs", "memory", "recall", "tasks", "train_rl", "train_task", "evaluate")
"""Every module that the toolkit puts on the path."""

HOME = next(folder for folder in Path(__file__).resolve().parents if (folder / "train_rl.py").is_file())
"""Where those modules are."""

__path__ = []  # no submodules: `mnm_rl.agents` would be a second copy of `agents`


def train() -> NoReturn:
    """The command mnm-train."""
    _run("train_rl")


def evaluate() -> NoReturn:
    """The command mnm-evaluate."""
    _run("evaluate")


def task() -> NoReturn:
    """The command mnm-task."""
    _run("train_task")


def _run(script: str) -> NoReturn:
    from agents.options import run_command

    run_command(importlib.import_module(script).main)


def _claim_names() -> None:
    """Put HOME first on the path; raises ImportError if one of the names already means something else."""
    for name in NAMES:
        module = sys.modules.get(name)
        file = None if module is None else getattr(module, "__file__", None)
        ours = (HOME / name / "__init__.py", HOME / f"{name}.py")
        if module is not None and (file is None or Path(file).resolve() not in ours):
            where = file or next(iter(getattr(module, "__path__", ["?"])))
            raise ImportError(
                f"mnm_rl needs the module name {name!r}, which {where} has taken: "
                f"import mnm_rl first, or rename that module"
            )
    sys.path.insert(0, str(HOME))


_claim_names()
