"""What the bAbI benchmarks share: the options of their commands, and how a run is trained in pieces."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from agents.options import option
from envs.errors import UserError
from tasks.babi.task import GENERATED

ROOT = Path(__file__).resolve().parent.parent
STOPPED = 130
"""Exit code of a run that was asked to stop and can be continued."""


@dataclass(frozen=True)
class BabiRunsConfig:
    """Options that every command of the bAbI benchmarks has."""

    data: str | None = option(None, "directory with the official files; needed to train", metavar="DIR")
    core: str = option("mnm-p", "memory core")
    seed: int = option(0, "training seed")
    minutes: float | None = option(
        None, "stop a run after this time; the same command continues it", metavar="X"
    )
    summary: bool = option(False, "train nothing: print and draw from the committed CSV", switch=True)

    def data_argument(self) -> str:
        """--data as a run takes it, whose working directory is the repository; raises UserError."""
        if self.data is None:
            raise UserError("--data is needed to train: the directory that holds qa1_train.txt")
        return self.data if self.data == GENERATED else str(Path(self.data).resolve())


def train(path: Path, command: list[str], minutes: float | None) -> None:
    """Bring the run at `path` to its end with the command, or on for `minutes`."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _, errors = process.communicate(timeout=None if minutes is None else 60 * minutes)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # it finishes its update and writes a checkpoint
        _, errors = process.communicate()
    except KeyboardInterrupt:
        process.communicate()  # Ctrl-C reached it too; a second signal would stop it without a checkpoint
        raise
    if process.returncode not in (0, STOPPED):
        raise UserError(f"{path.name} failed: {' '.join(errors.strip().splitlines()[-1:])}")
