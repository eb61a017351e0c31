"""A forked command finds what `python` would give it: this is what lets tests start commands that way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Command, heard_signals, run

TOLD = """
import os, signal, sys
facts = {
    "argv": sys.argv[1:], "first on the path": sys.path[0], "directory": os.getcwd(), "name": __name__,
    "environment": dict(os.environ), "terminal": [os.isatty(fd) for fd in range(3)],
    "signals": {s.name: repr(signal.getsignal(s)) for s in signal.Signals if s.name != "SIGKILL"},
    "ours": sorted({"agents", "envs", "memory", "recall", "tasks", "benchmarks"} & set(sys.modules)),
    "streams": [(s.encoding, s.errors, s.line_buffering, s.write_through) for s in (sys.stdout, sys.stderr)],
    "threads": len(os.listdir("/proc/self/task")), "descriptors": len(os.listdir("/proc/self/fd")),
}
__import__("json").dump(facts, sys.stdout)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["a script", "-c", "-m"])
def test_a_command_finds_what_a_fresh_interpreter_finds(how: str, tmp_path: Path) -> None:
    words = ["-c", TOLD]
    environment = {
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
        "WORD": "of its own",
    }
    if how != "-c":
        (tmp_path / "told.py").write_text(TOLD)
        words = [str(tmp_path / "told.py")] if how == "a script" else ["-m", "told"]
    words += ["--option", "a value"]
    fresh = subprocess.run(
        [sys.executable, *words], env=environment, cwd=tmp_path, capture_output=True, text=True,
        preexec_fn=heard_signals,
    )  # fmt: skip
    forked = run(*words, env=environment, cwd=tmp_path)
    assert json.loads(forked.stdout) == json.loads(fresh.stdout)
    assert (forked.returncode, forked.stderr) == (fresh.returncode, fresh.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code"),
    [("raise SystemExit(7)", 7), ("raise ValueError('x')", 1), ("os.kill(os.getpid(), 9)", -9), ("pass", 0)],
)
def test_a_command_ends_as_it_does_in_a_fresh_interpreter(end: str, code: int) -> None:
    script = f"import atexit, os\natexit.register(print, 'at exit')\n{end}"
    fresh = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    forked = run("-c", script)
    assert forked.returncode == fresh.returncode == code
    assert forked.stdout == fresh.stdout
    assert forked.stderr.splitlines()[-1:] == fresh.stderr.splitlines()[-1:]


def test_a_command_has_a_group_of_its_own_where_asked_and_can_be_signalled() -> None:
    waiting = "import signal, sys\nprint('ready', flush=True)\nsignal.pause()"
    command = Command("-c", waiting, start_new_session=True)
    assert command.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        command.wait(timeout=0.01)
    assert os.getpgid(command.pid) == command.pid
    os.killpg(command.pid, signal.SIGTERM)
    assert command.communicate(timeout=60)[1] == ""
    assert command.wait() == -signal.SIGTERM
    command.kill()  # of one that has ended: nothing
