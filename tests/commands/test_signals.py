"""What the system asks of a run: stop, save, hang up; and what a worker or the run itself leaves when it is gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import Command
from forked import run as run_to_end

import train_rl
from agents.checkpoint import load_checkpoint
from agents.progress import StopSignal
from agents.trainer import Trainer

TINY = ["--env", "mnm/TMaze-v0", "--core", "none", "--num-envs", "4", "--rollout-steps", "25", "--minibatches", "2",
        "--hidden-size", "16", "--embedding-size", "16", "--log-every", "1",
        "--total-steps", "2_000"]  # fmt: skip


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {name: signal.getsignal(name) for name in names}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


def signalled(monkeypatch: pytest.MonkeyPatch, sent: dict[int, int]) -> None:
    """The run gets signal sent[update] in the middle of that update."""
    advance = Trainer.advance

    def interrupted(self: Trainer) -> dict[str, float]:
        if self.updates + 1 in sent:
            signal.raise_signal(sent[self.updates + 1])
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", interrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_stop_saves_after_the_update(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled(monkeypatch, {3: number})
    assert train_rl.main([*TINY, "--run-dir", str(tmp_path / "run")]) == 128 + number
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt")["updates"] == 3


def test_usr1_saves_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signalled(monkeypatch, {2: signal.SIGUSR1, 4: signal.SIGTERM})
    assert train_rl.main([*TINY, "--run-dir", str(tmp_path / "run")]) == 143
    held = tmp_path / "run" / "checkpoints"
    assert {p.stem: load_checkpoint(p)["updates"] for p in held.iterdir()} == {"latest": 4, "previous-1": 2}


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopSignal(print)
    signal.raise_signal(signal.SIGHUP)
    assert stop.code == 0


def until(holds: Callable[[], Any], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def start(run: Path, *options: str) -> Command:
    endless = [*TINY, "--total-steps", "1e9", "--run-dir", str(run), *options]
    return Command("train_rl.py", *endless, start_new_session=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_stops_a_run_with_workers_in_order(
    number: signal.Signals, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = start(run, "--backend", "async")
    try:
        until(lambda: (run / "metrics.csv").exists() or job.poll() is not None)
        os.killpg(job.pid, signal.SIGUSR1)
        time.sleep(0.2)
        os.killpg(job.pid, number)
        _, errors = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == 128 + number
    assert errors == ""
    assert load_checkpoint(run / "checkpoints" / "latest.pt")["updates"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the workers in /proc")
def test_a_killed_run_leaves_no_worker_no_lock_and_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = start(run, "--backend", "async")
    try:
        until(lambda: (run / "metrics.csv").exists() or job.poll() is not None)
        workers = [int(p) for p in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()]
        assert len(workers) >= 4
    finally:
        job.kill()
    job.communicate()
    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 20)
    (run / "checkpoints" / ".latest.pt.abc.part").write_bytes(b"half")
    done = run_to_end("train_rl.py", "--run-dir", str(run), "--resume", "--total-steps", "200")
    assert done.returncode == 0, done.stderr
    assert not list(run.rglob("*.part"))
