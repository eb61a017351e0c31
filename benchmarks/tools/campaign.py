"""Everything that may go wrong, again and again: kills, malformed inputs, broken environments, signals, small disks.

    python -m benchmarks.tools.campaign
    python -m benchmarks.tools.campaign --kills 20 --inputs 100 --parts kills,inputs --json campaign.json

Prints a table: tried, went on or was the same, one line, traceback, accepted wrongly, lost. The last three must be 0
everywhere; the exit code says so. The same seed makes the same inputs; the instants of the kills vary.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate
import train_rl
from agents.checkpoint import content_digest, load_checkpoint
from agents.files import write_json
from agents.metrics import read_metrics
from agents.options import check_numbers, option, parse, run_command
from benchmarks.tools.broken import FAULTS, HARMLESS
from benchmarks.tools.inputs import outcome, targets
from envs.errors import UserError

PARTS = ("kills", "inputs", "environments", "signals", "disks")
COLUMNS = ("went on", "same", "one line", "traceback", "accepted wrongly", "lost")
BAD = ("traceback", "accepted wrongly", "lost")
UPDATES, PER_UPDATE = 40, 36
TINY = ["--env", "mnm/TMaze-v0", "--core", "lstm", "--num-envs", "4", "--rollout-steps", "9", "--minibatches", "2",
        "--hidden-size", "16", "--embedding-size", "16", "--log-every", "1", "--checkpoint-every", "3"]  # fmt: skip
LONGEST_S = 120.0


@dataclass(frozen=True)
class CampaignConfig:
    """Options of the command."""

    kills: int = option(200, "kill -9 at random instants of training, start-up included")
    inputs: int = option(1000, "malformed inputs per target")
    disks: int = option(20, "runs on a disk that fills up")
    parts: str = option(",".join(PARTS), "what is tried, separated by commas")
    seed: int = option(0, "seed of the generators")
    json: str | None = option(None, "write the table to this file too", metavar="FILE")

    def __post_init__(self) -> None:
        check_numbers(self)
        for part in self.parts.split(","):
            if part not in PARTS:
                raise UserError(f"unknown part {part!r}; valid: {', '.join(PARTS)}")


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


def train_argv(run: Path) -> list[str]:
    return [*TINY, "--resume-or-start", "--total-steps", str(UPDATES * PER_UPDATE), "--run-dir", str(run)]


def fault_of(run: Path, expected: str) -> str:
    """What is wrong with a run that came to its end after kills; empty if it is as one that was never killed."""
    if weights_of(run) != expected:
        return "other weights than without kills"
    updates = [row["updates"] for row in read_metrics(run / "metrics.csv")]
    if updates != list(range(1, UPDATES + 1)):
        return f"rows {updates}"
    found = EventAccumulator(str(run))
    found.Reload()
    steps = [event.step for event in found.Scalars("charts/fps")]
    return "" if steps == sorted(set(steps)) else f"points {steps}"


def weights_of(run: Path) -> str:
    return content_digest(load_checkpoint(run / "checkpoints" / "latest.pt")["model"])


def kills(table: Table, place: Path, count: int, rng: random.Random) -> None:
    """Kill runs at random instants; each goes on by the same command until it ends, and must be as if nothing was."""
    whole, log = place / "whole", place / "log"
    begun = time.monotonic()
    assert wait(start(train_rl.main, train_argv(whole), log)) == 0, log.read_text()
    expected, lasts = weights_of(whole), time.monotonic() - begun
    done = number = 0
    while done < count:
        run, number = place / f"run{number}", number + 1
        while True:
            pid = start(train_rl.main, train_argv(run), log)
            late = rng.choice([0.03, 0.1, 0.3, 0.7]) * lasts
            instant = rng.uniform(0.0, late)
            code = wait(pid, instant, group=False) if done < count else wait(pid)
            if code is None:
                done += 1
                table.add("kill -9", "went on")
            elif code == 0:
                break
            else:
                table.add("kill -9", *said(log))
                table.add(
                    "kill -9", "lost", f"exit code {code} in {run}: {log.read_text(errors='replace')[-300:]}"
                )
                return
        if fault := fault_of(run, expected):
            table.add("kill -9", "lost", f"{run.name}: {fault}")
        if list(run.rglob("*.part")):
            table.add("kill -9", "lost", f"{run.name}: leftovers")
        shutil.rmtree(run)


def malformed(table: Table, place: Path, count: int, rng: random.Random) -> None:
    """Malformed inputs, `count` for every target."""
    run, tape, log = place / "sound", place / "sound.npz", place / "log"
    if not run.exists():
        assert wait(start(train_rl.main, train_argv(run), log)) == 0, log.read_text()
        argv = [str(run), "--episodes", "1", "--tape", str(tape)]
        assert wait(start(evaluate.main, argv, log)) == 0, log.read_text()
    scratch = place / "scratch"
    scratch.mkdir()
    for target in targets(run, tape, scratch):
        for _ in range(count):
            table.add(target.name, *outcome(target, rng))


def environments(table: Table, place: Path) -> None:
    """Every broken environment, in training with both backends and in evaluation."""
    log = place / "log"
    base = [*TINY, "--env", "benchmarks.tools.broken:campaign/Broken-v0", "--checkpoint-every", "1"]
    for backend in ("sync", "async"):
        for how in (*HARMLESS, *FAULTS):
            run = place / f"{backend}-{how.replace(' ', '-')}"
            argv = [
                *base,
                "--backend",
                backend,
                "--env-kwargs",
                f'{{"how": "{how}"}}',
                "--total-steps",
                "360",
            ]
            code = wait(start(train_rl.main, [*argv, "--run-dir", str(run)], log))
            table.add(f"broken env, {backend}", *_judged(code, how, log))
            saved = load_checkpoint(run / "checkpoints" / "latest.pt")["model"]
            if not all(x.isfinite().all() for x in saved.values()):
                table.add(f"broken env, {backend}", "lost", f"{how}: the checkpoint is not finite")
    sound = place / "sync-nothing"
    for how in FAULTS:
        text = (sound / "config.json").read_text().replace('\\"nothing\\"', f'\\"{how}\\"')
        run = place / f"evaluate-{how.replace(' ', '-')}"
        shutil.copytree(sound, run)
        (run / "config.json").write_text(text)
        content = load_checkpoint(run / "checkpoints" / "latest.pt")
        content["config"]["env_kwargs"] = f'{{"how": "{how}"}}'
        torch.save({**content, "format": 1}, run / "checkpoints" / "latest.pt")
        code = wait(start(evaluate.main, [str(run), "--episodes", "50", "--num-envs", "2"], log))
        table.add("broken env, evaluate", *_judged(code, how, log))


def _judged(code: int | None, how: str, log: Path) -> tuple[str, str]:
    if code is None:
        return "lost", f"{how}: no end"
    if how in HARMLESS:
        return ("went on", "") if code == 0 else ("lost", f"{how}: {log.read_text(errors='replace')[-300:]}")
    if code == 0:
        return "accepted wrongly", how
    ended, detail = said(log)
    return ended, f"{how}: {detail}"


def signals(table: Table, place: Path) -> None:
    """Signals to the whole process group, with workers and without: saved, stopped, resumed."""
    log = place / "log"
    for backend in ("sync", "async"):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            run = place / f"{backend}-{number.name}"
            argv = [*TINY, "--backend", backend, "--run-dir", str(run), "--total-steps", "1e9"]
            pid = start(train_rl.main, argv, log)
            deadline = time.monotonic() + LONGEST_S
            while not (run / "metrics.csv").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            os.killpg(pid, signal.SIGUSR1)
            time.sleep(0.3)
            os.killpg(pid, number)
            code, text = wait(pid), log.read_text(errors="replace")
            saved = load_checkpoint(run / "checkpoints" / "latest.pt")["updates"]
            fine = code == 128 + number and saved > 0 and "Traceback" not in text
            table.add(
                f"signals, {backend}", "went on" if fine else "lost", f"{number.name}: {code}, {text[-300:]}"
            )


def disks(table: Table, place: Path, count: int, rng: random.Random) -> None:
    """Files that cannot grow beyond a random size: one line, and the run goes on when there is room again."""
    log = place / "log"
    for number in range(count):
        run = place / f"run{number}"
        there, here = os.pipe()  # what it says is no file, and has no limit
        pid = start(train_rl.main, train_argv(run), here, most=int(10 ** rng.uniform(1.0, 5.0)))
        os.close(here)
        code = wait(pid)
        log.write_bytes(os.read(there, 2**20))
        os.close(there)
        table.add("small disk", *(("went on", "") if code == 0 else said(log)))
        code = wait(start(train_rl.main, train_argv(run), log))
        updates = [row["updates"] for row in read_metrics(run / "metrics.csv")]
        if code != 0 or updates != list(range(1, UPDATES + 1)):
            table.add("small disk", "lost", f"{code}, {updates}, {log.read_text(errors='replace')[-300:]}")
        shutil.rmtree(run)


def campaign(config: CampaignConfig) -> Table:
    """Try everything that the configuration names."""
    torch.set_num_threads(1)  # the commands run in forked processes, and threads do not survive a fork
    rng, table = random.Random(config.seed), Table()
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        for part in config.parts.split(","):
            place = Path(folder) / part
            place.mkdir()
            if part == "kills":
                kills(table, place, config.kills, rng)
            elif part == "inputs":
                malformed(table, place, config.inputs, rng)
            elif part == "environments":
                environments(table, place)
            elif part == "signals":
                signals(table, place)
            else:
                disks(table, place, config.disks, rng)
            print("\n".join(table.lines()), flush=True)
    return table


def main(argv: Sequence[str]) -> int:
    """Run the command; returns 0 if nothing was lost, accepted wrongly or ended in a traceback."""
    config = parse(CampaignConfig(), argv, description=__doc__ or "")
    table = campaign(config)
    print("\n".join(table.details[:100]))
    if config.json is not None:
        write_json(config.json, {"rows": table.rows, "details": table.details})
    return 0 if table.sound else 1


if __name__ == "__main__":
    run_command(main)
