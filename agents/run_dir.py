"""The directory of a run: config.json, metrics.csv, TensorBoard events, checkpoints/, curves.png."""

from __future__ import annotations

import csv
import json
import math
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from torch.utils.tensorboard import SummaryWriter

from agents.files import write_text
from agents.options import suggestion
from agents.stored_config import config_from_dict, config_to_dict
from envs.errors import UserError

ConfigT = TypeVar("ConfigT")

PACKAGES = ("torch", "gymnasium", "minigrid", "numpy", "envpool")

UNREAD = (":!benchmarks/results", ":!docs", ":!README.md")
"""Tracked files that are written from results, as git excludes them from a path."""

TENSORBOARD_FAMILY = {
    "return_mean": "charts", "length_mean": "charts", "success_rate": "charts", "episodes": "charts",
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

    Recorded results and pages may differ: no run reads them, and recording a run changes them.
    """
    root = str(Path(__file__).resolve().parent.parent)
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
