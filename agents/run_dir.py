"""The directory of a run: config.json, metrics.csv, TensorBoard events, checkpoints/, curves.png.

A checkpoint is one file, written atomically, of plain tensors, numbers, lists and text only, so that
`torch.load(weights_only=True)` reads it without unpickling arbitrary objects. `latest` holds everything that an
exact continuation needs; `best` holds the agent alone.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from agents.files import atomic_file, write_text
from agents.hints import INSTALLED, ROOT
from agents.options import own_fields_first, suggestion
from envs.errors import UserError

ConfigT = TypeVar("ConfigT")

FORMAT = 1
"""Of checkpoints."""

RETIRED = ("cuda_graphs",)
"""Options that older runs stored and that no longer exist; they changed no result."""

PACKAGES = ("torch", "gymnasium", "minigrid", "numpy", "envpool")

UNREAD = (":!benchmarks/results", ":!docs", ":!README.md")
"""Tracked files that are written from results, as git excludes them from a path."""

TENSORBOARD_FAMILY = {
    "return_mean": "charts", "length_mean": "charts", "success_rate": "charts", "episodes": "charts",
    "eval_return_mean": "charts", "eval_length_mean": "charts", "eval_success_rate": "charts",
    "fps": "charts", "score": "charts", "updates_per_s": "charts", "learning_rate": "charts", "entropy_coef": "charts",
    "act_s": "time", "env_s": "time", "learn_s": "time", "wall_s": "time",
}  # fmt: skip
"""Heading under which TensorBoard shows a metric; all others are losses."""


def package_versions() -> dict[str, str]:
    """Versions of the packages that can change a result."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def source_commit() -> str:
    """The commit of this code, with "-dirty" if tracked files differ from it; "unknown" outside a git checkout.

    Recorded results and pages may differ: no run reads them, and recording a run changes them. An installed copy
    gives its release, not the commit of a repository that it may lie in.
    """
    if INSTALLED:
        return f"release {version('mnm-rl')}"
    root = str(ROOT)
    changes = ["status", "--porcelain", "--untracked-files=no", "--", ".", *UNREAD]
    try:
        commit, changed = (
            subprocess.run(["git", "-C", root, *command], capture_output=True, text=True, check=True).stdout
            for command in (["describe", "--always", "--exclude=*"], changes)
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.strip() + ("-dirty" if changed.strip() else "")


def cpu_model() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class RunDirectory:
    """Paths and writers of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics_path = path / "metrics.csv"
        self.curves_path = path / "curves.png"
        self._writer: SummaryWriter | None = None

    def checkpoint(self, name: str) -> Path:
        """Path of the checkpoint `latest` or `best`."""
        return self.path / "checkpoints" / f"{name}.pt"

    def create(self, config: Any) -> None:
        """Make a new run directory; refuses one that exists."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(
                f"the run directory {self.path} exists; continue it with --resume, or choose another --run-dir"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot create the run directory {self.path}: {error.strerror}") from None
        self.write_config(config)

    def write_config(self, config: Any) -> None:
        """Store the effective configuration and the package versions."""
        content = {
            "config": config_to_dict(config),
            "commit": source_commit(),
            "versions": package_versions(),
        }
        write_text(self.path / "config.json", json.dumps(content, indent=2) + "\n")

    def read_config(self, kind: type[ConfigT]) -> ConfigT:
        """The stored configuration of class `kind`; raises UserError if this is no run directory."""
        path, values = self.path / "config.json", self.read_values()
        try:
            return config_from_dict(kind, values, str(path))
        except TypeError as error:
            raise UserError(f"{path} is damaged: {error}") from None

    def read_values(self) -> dict[str, Any]:
        """The plain values of the stored configuration."""
        path = self.path / "config.json"
        if not path.is_file():
            beside = [str(found.parent) for found in self.path.parent.glob("*/config.json")]
            raise UserError(
                f"{self.path} is not a run directory: it has no config.json{suggestion(str(self.path), beside)}"
            )
        try:
            values = json.loads(path.read_text())["config"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f"{path} is damaged: its configuration is no object")
        return values

    def log(self, row: dict[str, float]) -> None:
        """Append a row to metrics.csv and to TensorBoard; the first row decides the columns."""
        is_new = not self.metrics_path.exists() or self.metrics_path.stat().st_size == 0
        with self.metrics_path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if is_new:
                writer.writeheader()
            writer.writerow({name: format_number(value) for name, value in row.items()})
        if self._writer is None:
            self._writer = SummaryWriter(str(self.path))
        for name, value in row.items():
            if not math.isnan(value):
                family = TENSORBOARD_FAMILY.get(name, "losses")
                self._writer.add_scalar(f"{family}/{name}", value, int(row.get("frames", row["updates"])))

    def forget_after(self, updates: int) -> None:
        """Drop the rows of metrics.csv that a resumed run will write again."""
        if not self.metrics_path.is_file():
            return
        rows = read_metrics(self.metrics_path)
        kept = [row for row in rows if row["updates"] <= updates]
        if len(kept) < len(rows):
            lines = [",".join(rows[0])] + [",".join(format_number(x) for x in row.values()) for row in kept]
            write_text(self.metrics_path, "\n".join(lines) + "\n")

    def columns(self) -> list[str]:
        """The columns of metrics.csv; none before the first row."""
        if not self.metrics_path.is_file():
            return []
        with self.metrics_path.open(newline="") as file:
            return next(csv.reader(file), [])

    def close(self) -> None:
        """Flush the TensorBoard file."""
        if self._writer is not None:
            self._writer.close()


def format_number(value: float) -> str:
    """Short decimal text that keeps whole numbers whole; empty for NaN."""
    if math.isnan(value):
        return ""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics.csv; an empty cell becomes NaN."""
    with path.open(newline="") as file:
        return [
            {name: float(text) if text else float("nan") for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


def config_to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a configuration dataclass, for config.json and for checkpoints."""
    return {field.name: getattr(config, field.name) for field in own_fields_first(type(config))}


def config_from_dict(kind: type[ConfigT], values: dict[str, Any], source: str) -> ConfigT:
    """The configuration stored in `source`; unknown keys are refused, retired ones dropped."""
    values = {key: value for key, value in values.items() if key not in RETIRED}
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise UserError(f"{source} has the unknown option {key!r}{suggestion(key, names)}")
    before = {f.name: f.metadata["before"] for f in dataclasses.fields(kind) if "before" in f.metadata}  # type: ignore[arg-type]
    return kind(**(before | values))


def check_resume(stored: Any, wanted: Any, fixed: Iterable[str], architecture: Iterable[str] = ()) -> None:
    """Refuse to resume with an option of `fixed` changed; `architecture` names those that shape the weights."""
    for name in fixed:
        old, new = getattr(stored, name), getattr(wanted, name)
        if old != new:
            kind = "architecture option" if name in architecture else "option"
            raise UserError(
                f"--resume cannot change the {kind} --{name.replace('_', '-')} from {old!r} to {new!r}; "
                "leave it out, or start a new run in another --run-dir"
            )


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        torch.save({"format": FORMAT, **content}, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; raises UserError if it is missing, damaged or not one of ours."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
        raise UserError(f"{path} is truncated or not a checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict) or "model" not in content:
        raise UserError(f"{path} is not a checkpoint of mnm-rl: it holds no model")
    if content.get("format") != FORMAT:
        raise UserError(f"{path} has checkpoint format {content.get('format')!r}, expected {FORMAT}")
    return content


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], source: Path) -> None:
    """Put `weights` into `model`; raises UserError, naming the first difference, if they do not fit."""
    own = model.state_dict()
    for name in sorted(set(own) | set(weights)):
        if name not in weights:
            raise UserError(f"{source} is of another architecture: it has no {name}")
        if name not in own:
            raise UserError(f"{source} is of another architecture: its {name} has no place in this agent")
        if own[name].shape != weights[name].shape:
            raise UserError(
                f"{source} is of another architecture: its {name} has shape {list(weights[name].shape)}, "
                f"this agent needs {list(own[name].shape)}"
            )
    model.load_state_dict(weights)
