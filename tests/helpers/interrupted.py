"""A training command that is interrupted as a user does it: Ctrl-C once its log has begun."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

from forked import Command


def interrupt(script: str, arguments: Sequence[str], run_dir: Path) -> None:
    """Start `script` for ever, send Ctrl-C when metrics.csv exists; it must stop cleanly with code 130."""
    process = Command(script, *arguments, "--run-dir", str(run_dir))
    try:
        deadline = time.monotonic() + 60
        while not (run_dir / "metrics.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
