"""What every benchmark shares: where things are kept, where and when it was measured, and runs in pieces."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from agents.options import suggestion
from agents.run_dir import cpu_model, source_commit
from envs.errors import UserError
from memory import CORE_NAMES

ROOT = Path(__file__).resolve().parent.parent
RUNS_DIR = ROOT / "runs"
RESULTS_DIR = ROOT / "benchmarks" / "results"
STOPPED = 130
"""Exit code of a run that was asked to stop and can be continued."""


CORE_COLOURS = dict(
    zip(
        CORE_NAMES,
        ("#7f7f7f", "#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#f0e442", "#000000"),
        strict=False,
    )
)
"""One colour per core in every figure (Okabe and Ito's palette, told apart by colour-blind readers too)."""


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def names_in(text: str, known: Iterable[str], kind: str) -> list[str]:
    """Names separated by commas, or `all` or `none` of the known ones; raises UserError for any other.

    Where `none` is a name itself, such as that of a core, it is that name.
    """
    known = list(known)
    named = [text] if text in known else {"all": known, "none": []}.get(text, text.split(","))
    for name in named:
        if name not in known:
            raise UserError(f"unknown {kind} {name!r}{suggestion(name, known)}; known: {', '.join(known)}")
    return named


def check_takes_part(name: str, wanted: Iterable[str], has: Sequence[str], kind: str) -> None:
    """Raise UserError if none of the `wanted` cores or sides (`kind`) is one that `name` has."""
    wanted = list(wanted)
    if not set(wanted) & set(has):
        raise UserError(f"{name} has none of the {kind} {', '.join(wanted)}; it has {', '.join(has)}")


def numbers_in(text: str, name: str) -> list[int]:
    """Whole numbers separated by commas, of the option `--name`; raises UserError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--{name} takes whole numbers separated by commas, such as 0,1,2; got {text!r}")
    return [int(part) for part in parts]


def machine_columns() -> dict[str, str | int]:
    """Date, processor, cores, PyTorch and commit: columns that every table of measurements carries."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "torch": torch.__version__,
        "commit": source_commit(),
    }


def run_in_pieces(path: Path, command: Sequence[str], seconds: float | None) -> None:
    """Bring the run at `path` to its end with the command, or on for `seconds`; raises UserError if it fails."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # it finishes its update and writes a checkpoint
        _, errors = process.communicate()
    except KeyboardInterrupt:
        process.communicate()  # Ctrl-C reached it too; a second signal would stop it without a checkpoint
        raise
    if process.returncode not in (0, STOPPED):
        raise UserError(f"{path.name} failed: {' '.join(errors.strip().splitlines()[-1:])}")


DIRTY = "-dirty"
DAGGER = " †"
"""Behind the name of a line of a table that has a run from an uncommitted tree."""


def require_clean_tree() -> None:
    """Refuse to record what no commit describes; called before anything is trained or measured."""
    commit = source_commit()
    if commit == "unknown":
        raise UserError("results name the commit they come from, and this is no git checkout")
    if commit.endswith(DIRTY):
        raise UserError(
            f"results name the commit they come from, and tracked files differ from {commit.removesuffix(DIRTY)}: "
            "commit them first (git status shows them)"
        )


def commit_of(run: Path) -> str:
    """The commit that a run was trained at."""
    return str(json.loads((run / "config.json").read_text()).get("commit", "unknown"))


def is_committed(run: Path, commit: str) -> bool:
    """Whether the run may be recorded; one line says so if it was trained from an uncommitted tree."""
    if commit.endswith(DIRTY):
        print(f"{run.name} is left out: it was trained from an uncommitted tree ({commit})", flush=True)
        return False
    return True


def marked(name: str, rows: Iterable[Mapping[str, str]]) -> str:
    """The name of a line of a table, with a dagger if a row behind it comes from an uncommitted tree."""
    return name + (DAGGER if any(row.get("commit", "").endswith(DIRTY) for row in rows) else "")
