"""The directory of a run: config.json, metrics.csv, TensorBoard events, checkpoints/, curves.png.

A directory that was begun and holds no checkpoint yet can be begun again, so that a run killed at any instant
continues or starts by the same command. One process writes at a time: the lock is the system's, and dies with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agents.files import WriterLock, cannot_write, predecessors, remove_leftovers, write_text
from agents.hints import INSTALLED, ROOT
from agents.metrics import MetricsFile, parse_metrics
from agents.options import check_types, own_fields_first, suggestion
from envs.errors import Stopped, UserError, first_line
from envs.user_modules import folders_of, look_in

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

ConfigT = TypeVar("ConfigT")

BEGINNINGS = {"config.json", "checkpoints", ".lock", "fault.txt"}
"""What a run has written before its first checkpoint."""

WRITTEN = ("config.json", "metrics.csv", "curves.png", "fault.txt", "profile.csv", "result.json")
"""Files of the directory itself; a killed run may leave unfinished ones beside them."""

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
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:
            raise UserError(f"the run directory {str(path)!r} cannot be used: {first_line(error)}") from None
        self.path = path
        self.metrics_path = path / "metrics.csv"
        self.curves_path = path / "curves.png"
        self.metrics = MetricsFile(self.metrics_path)
        self._writer: SummaryWriter | None = None
        self._no_tensorboard = False
        self._resumed_at: int | None = None
        """The first step of TensorBoard that this process writes, where others were written before."""
        self._lock = WriterLock(path / ".lock")

    def checkpoint(self, name: str) -> Path:
        """Path of the checkpoint `latest` or `best`."""
        return self.path / "checkpoints" / f"{name}.pt"

    def is_new(self) -> bool:
        """Whether a run can start here: nothing is here, or only what a run wrote that never got to a checkpoint."""
        try:
            if not self.path.exists():
                return True
            names = {entry.name for entry in self.path.iterdir() if not entry.name.endswith(".part")}
        except NotADirectoryError:
            return False
        except (OSError, ValueError) as error:
            raise UserError(f"the run directory {self.path} cannot be used: {first_line(error)}") from None
        return names <= BEGINNINGS and not self.has_checkpoint()

    def has_checkpoint(self) -> bool:
        """Whether there is something to continue from."""
        latest = self.checkpoint("latest")
        return latest.exists() or bool(predecessors(latest))

    def create(self, config: Any) -> None:
        """Make a new run directory; refuses one that holds a run."""
        self._require_new()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot create the run directory {self.path}: {error.strerror}") from None
        self.take()
        self._require_new()
        self.write_config(config)

    def _require_new(self) -> None:
        if not self.is_new():
            raise UserError(
                f"the run directory {self.path} exists; continue it with --resume, or choose another --run-dir"
            )

    def take(self) -> None:
        """From now on this process alone writes here; removes what killed writers left half-written."""
        try:
            holder = self._lock.take()
        except OSError as error:
            raise cannot_write(self._lock.path, error) from error
        if holder is not None:
            raise UserError(f"the run directory {self.path} is being written by {holder}; stop it first")
        remove_leftovers(self.path, WRITTEN)
        remove_leftovers(self.path / "checkpoints")

    def write_config(self, config: Any) -> None:
        """Store the effective configuration and the package versions."""
        values = config_to_dict(config)
        content = {"config": values, "commit": source_commit(), "versions": package_versions()}
        named = [values[name] for name in ("env", "core") if name in values]
        folders = folders_of(*named, *values.get("wrapper", ()))
        if folders:
            content["modules"] = folders
        write_text(self.path / "config.json", json.dumps(content, indent=2) + "\n")

    def read_config(self, kind: type[ConfigT]) -> ConfigT:
        """The stored configuration of class `kind`; raises UserError if this is no run directory."""
        return config_from_dict(kind, self.read_values(), str(self.path / "config.json"))

    def options_before(self, kind: type[Any]) -> dict[str, Any]:
        """What options of `kind` mean in this run that did not exist, or meant something else, when it was stored."""
        return meanings_before(kind, self.read_values())

    def read_values(self) -> dict[str, Any]:
        """The plain values of the stored configuration."""
        values: dict[str, Any] = self.read_stored()["config"]
        return values

    def read_stored(self) -> dict[str, Any]:
        """All that config.json holds; raises UserError if this is no run directory."""
        path = self.path / "config.json"
        try:
            if not path.is_file():
                beside = [str(found.parent) for found in self.path.parent.glob("*/config.json")]
                raise UserError(
                    f"{self.path} is not a run directory: it has no config.json{suggestion(str(self.path), beside)}"
                )
            stored = json.loads(path.read_text())
        except UserError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged: {first_line(error)}") from None
        if not isinstance(stored, dict) or not isinstance(stored.get("config"), dict):
            raise UserError(f"{path} is damaged: it holds no configuration")
        return stored

    def find_modules(self) -> None:
        """Make the user's own environment and core importable from where the run found them."""
        folders = self.read_stored().get("modules")
        if isinstance(folders, dict):
            look_in(folders)

    def log(self, row: dict[str, float]) -> None:
        """Append a row to metrics.csv and to TensorBoard."""
        self.metrics.append(row)
        step = int(row.get("frames", row["updates"]))
        with self._tensorboard():
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                _quiet_tensorboard()
                # Points of a run that was killed after its checkpoint are drawn once, as it went on.
                self._writer = SummaryWriter(str(self.path), purge_step=self._resumed_at)
            for name, value in row.items():
                if math.isfinite(value):
                    family = TENSORBOARD_FAMILY.get(name, "losses")
                    self._writer.add_scalar(f"{family}/{name}", value, step)

    @contextlib.contextmanager
    def _tensorboard(self) -> Iterator[None]:
        """TensorBoard is a convenience: where it cannot be written, the run goes on without it."""
        if self._no_tensorboard:
            return
        try:
            yield
        except OSError as error:
            self._no_tensorboard = True
            print(f"TensorBoard events are not written any more: {first_line(error)}", file=sys.stderr)

    def forget_after(self, updates: int, step: int) -> str | None:
        """Drop what a run resumed at this update and step writes again; returns what there is to say of the log."""
        self._resumed_at = step + 1
        return self.metrics.forget_after(updates)

    def columns(self) -> list[str]:
        """The columns of metrics.csv; none before the first row."""
        return parse_metrics(self.metrics_path).columns

    def save(self, name: str, content: dict[str, Any], keep: int | None = None) -> None:
        """Write the checkpoint `latest` or `best`, after what was logged before it."""
        from agents.checkpoint import save_checkpoint

        if not self.path.is_dir():
            raise Stopped(
                f"the run directory {self.path} was deleted or renamed; if renamed, the checkpoint in it is whole"
            )
        with self._tensorboard():
            if self._writer is not None:
                self._writer.flush()
        save_checkpoint(self.checkpoint(name), content, keep)

    def close(self) -> None:
        """Flush the TensorBoard file and let others write here."""
        with self._tensorboard():
            if self._writer is not None:
                self._writer.close()
        self._lock.release()


def _quiet_tensorboard() -> None:
    """The thread that writes TensorBoard events fails without a traceback: its next caller is told, and says so."""
    told = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        is_writer = type(failure.thread).__name__ == "_AsyncWriterThread"
        if not (is_writer and isinstance(failure.exc_value, OSError)):
            told(failure)

    threading.excepthook = hook


def config_to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a configuration dataclass, for config.json and for checkpoints."""
    return {field.name: getattr(config, field.name) for field in own_fields_first(type(config))}


def config_from_dict(kind: type[ConfigT], values: dict[str, Any], source: str) -> ConfigT:
    """The configuration stored in `source`; unknown keys and wrong types are refused, retired keys dropped."""
    values = {key: value for key, value in values.items() if key not in RETIRED}
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise UserError(f"{source} has the unknown option {key!r}{suggestion(key, names)}")
    try:
        check_types(kind, values)
        return kind(**(values | meanings_before(kind, values)))
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def meanings_before(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """What options of `kind` that were added, or changed their meaning, later mean in the stored `values`."""
    found = {}
    for field in dataclasses.fields(kind):
        if field.name not in values:
            if "before" in field.metadata:
                found[field.name] = field.metadata["before"]
        elif "renamed" in field.metadata:
            later, names = field.metadata["renamed"]
            if later not in values and values[field.name] in names:
                found[field.name] = names[values[field.name]]
    return found


def announce_modules(config: Any, source: Path) -> None:
    """Say which modules a stored configuration imports: their code runs, whoever wrote the configuration."""
    for name in (config.env, config.core, *config.wrapper):
        if ":" in name:
            print(f"importing {name.split(':')[0]}, named by {source / 'config.json'}", file=sys.stderr)


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
