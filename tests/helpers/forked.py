"""Commands as real processes that begin at once: forked from a process that has imported the libraries already.

A fresh interpreter spends seconds in `import torch` before the first line of a command. Here one server for all
tests of a pytest process imports third-party modules, none of ours, and forks itself for every command: a process
with an id, a group, descriptors, signals, environment and exit code of its own, whose imports of our modules are
real. What Python or a library reads from the environment as it starts (PYTHONIOENCODING) it has read before: tests
of that, and of what is imported when, start an interpreter of their own.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("torch", "torch.distributed.launcher.api", "torch.utils.tensorboard", "numpy",
             "gymnasium", "gymnasium.vector", "matplotlib.backends.backend_agg", "matplotlib.figure", "optuna",
             "rich.console", "rich.progress", "safetensors.torch", "imageio.v2", "PIL.Image")  # fmt: skip
"""Imported by the server. None that registers environments: that a command imports those is for the tests to see."""


class Finished(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class Command:
    """A running command; the parts of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        *words: str,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        start_new_session: bool = False,
        read: bool = True,
    ) -> None:
        """`words`: what stands after `python`, a script, `-m module` or `-c code` first. `read`: whether anybody reads
        what it writes to stdout."""
        request = {"words": words, "env": dict(os.environ if env is None else env), "cwd": str(cwd),
                   "session": start_new_session}  # fmt: skip
        streams = [os.pipe() for _ in range(3)]
        connection = _server()
        socket.send_fds(connection, [json.dumps(request).encode()], [end for _, end in streams])
        for _, end in streams:
            os.close(end)
        self.pid = int(connection.recv(64))
        self.returncode: int | None = None
        if not read:
            os.close(streams[0][0])
        self._readers = [_Reader(fd) if read or i else None for i, (fd, _) in enumerate(streams[:2])]
        self._status = os.fdopen(streams[2][0])

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the command runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            with self._status:
                self.returncode = int(self._status.read())
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once the command has ended; raises subprocess.TimeoutExpired."""
        if self.returncode is None and not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("command", timeout or 0.0)
        code = self.poll()
        assert code is not None
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What the command and all that it started wrote to stdout and stderr, once they have ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for reader in filter(None, self._readers):
            reader.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired("command", timeout or 0.0)
        self.wait(None if deadline is None else max(1.0, deadline - time.monotonic()))
        stdout, stderr = ("" if reader is None else reader.text for reader in self._readers)
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        """Nothing if the command has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def run(
    *words: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT, timeout: float = 300
) -> Finished:
    """A command from start to end."""
    command = Command(*words, env=env, cwd=cwd)
    stdout, stderr = command.communicate(timeout)
    return Finished(command.wait(), stdout, stderr)


class _Reader(threading.Thread):
    """Takes from a pipe as the command writes, so that the command never waits."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self.fd, self.text = fd, ""
        self.start()

    def run(self) -> None:
        with open(self.fd, encoding="utf-8", errors="backslashreplace") as stream:
            self.text = stream.read()


@functools.cache
def _server() -> socket.socket:
    """The connection to the server, which ends when this process does."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # OpenBLAS, too, must have no threads when the server forks.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.Popen(
        [sys.executable, __file__, str(there.fileno())], pass_fds=[there.fileno()], env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    there.close()
    return here


# The server


def serve(requests: socket.socket) -> dict[str, Any]:
    """Fork for every request, report every end; returns in the processes that are forked, with their request."""
    for name in LIBRARIES:
        importlib.import_module(name)
    ours = {path.stem for path in ROOT.iterdir()} & {name.split(".")[0] for name in sys.modules}
    assert not ours, f"a library imports {ours} of ours"
    assert len(os.listdir("/proc/self/task")) == 1, "threads would be lost in the processes that are forked"
    gc.freeze()
    wake, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    status_of: dict[int, int] = {}
    while True:
        ready = select.select([requests, wake], [], [])[0]
        if wake in ready:
            wake.recv(4096)
            _report(status_of)
        if requests in ready:
            message, fds, _, _ = socket.recv_fds(requests, 1 << 20, 3)
            if not message:
                os._exit(0)  # the tests have ended
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for fd in (wake.detach(), wakeup.detach(), *status_of.values()):
                    os.close(fd)
                return {**json.loads(message), "fds": fds}
            status_of[pid] = fds.pop()
            for fd in fds:
                os.close(fd)


def _report(status_of: dict[int, int]) -> None:
    """Write the exit codes of the commands that have ended to their pipes."""
    while status_of:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with os.fdopen(status_of.pop(pid), "w") as stream:
            stream.write(str(os.waitstatus_to_exitcode(status)))


def heard_signals() -> None:
    """Signals end a command as at a terminal, also where the tests run under nohup or in the background."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def become(request: dict[str, Any], requests: socket.socket) -> None:
    """Run the command of a request as `python words...` does; first say that it is ready for signals."""
    import torch

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    heard_signals()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["session"]:
        os.setsid()
    requests.send(str(os.getpid()).encode())
    requests.close()
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    for target, fd in enumerate(request["fds"], start=1):
        if target < 3:
            os.dup2(fd, target)
        os.close(fd)
    # The old ones know their old files: whether those can seek.
    sys.stdout = sys.__stdout__ = _stream(sys.stdout, at_once="PYTHONUNBUFFERED" in os.environ)
    sys.stderr = sys.__stderr__ = _stream(sys.stderr, at_once=True)
    torch.set_num_threads(int(request["env"].get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    first, *rest = request["words"]
    sys.argv = [first, *rest] if first.endswith(".py") else [first, *rest[1:]]
    if first == "-c":
        sys.path[0] = ""
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.path[0] = os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


def _stream(old: TextIO, at_once: bool) -> TextIO:
    """The standard stream of a fresh interpreter whose output goes to a pipe."""
    new = open(old.fileno(), "w", encoding=old.encoding, errors=old.errors, closefd=False)  # noqa: SIM115
    new.reconfigure(line_buffering=at_once)
    return new


if __name__ == "__main__":
    connection = socket.socket(fileno=int(sys.argv[1]))
    become(serve(connection), connection)
