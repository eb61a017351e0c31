"""Trials of the campaign: commands started in processes of their own, and a table of how they ended."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agents.options import run_command

COLUMNS = ("went on", "same", "one line", "traceback", "accepted wrongly", "lost")
BAD = ("traceback", "accepted wrongly", "lost")
LONGEST_S = 120.0


@dataclass
class Table:
    """How often everything ended how."""

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)
    """Of what must not be."""

    def add(self, row: str, ended: str, detail: str = "") -> None:
        """Count one trial."""
        self.rows.setdefault(row, Counter())[ended] += 1
        if ended in BAD:
            self.details.append(f"{row}: {ended}: {detail}")

    def lines(self) -> list[str]:
        """The table as text."""
        head = f"{'':28}{'tried':>8}" + "".join(f"{name:>18}" for name in COLUMNS)
        return [head, *(
            f"{name:28}{sum(counts.values()):>8}" + "".join(f"{counts[c]:>18}" for c in COLUMNS)
            for name, counts in self.rows.items()
        )]  # fmt: skip

    @property
    def sound(self) -> bool:
        """Whether nothing that must not be was seen."""
        return not any(counts[name] for counts in self.rows.values() for name in BAD)


def start(
    main: Callable[[Sequence[str]], int], argv: Sequence[str], log: Path | int, most: int | None = None
) -> int:
    """The command in a forked process and session of its own, writing to `log`; returns its id.

    `most`: bytes that a file may have.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:  # whatever happens, this process must not go on with what its parent does
        _run(main, argv, log, most)
    finally:
        os._exit(72)


def _run(
    main: Callable[[Sequence[str]], int], argv: Sequence[str], log: Path | int, most: int | None
) -> None:
    try:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a campaign that runs under nohup ignores it
        handle = log if isinstance(log, int) else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        # Whoever started the campaign may have put something else in their place.
        sys.stdout, sys.stderr = (open(stream, "w", 1, closefd=False) for stream in (1, 2))  # noqa: SIM115
        if most is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        sys.argv = ["command", *argv]
        run_command(main)
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)


def wait(pid: int, seconds: float = LONGEST_S, group: bool = True) -> int | None:
    """The exit code of a process, negative for a signal; None if it had to be killed after `seconds`.

    `group`: so are the processes that it started.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    (os.killpg if group else os.kill)(pid, signal.SIGKILL)
    # It may have come to its end just before.
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None if code == -signal.SIGKILL else code


def said(log: Path) -> tuple[str, str]:
    """How a command that failed ended, by its output: "one line", or "traceback" with the end of it."""
    text = log.read_text(errors="replace")
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    return ("one line", "") if len(errors) == 1 and "Traceback" not in text else ("traceback", text[-400:])
