"""Everything that may go wrong, again and again: kills, malformed inputs, broken environments, signals, small disks,
ranks that die, and hours of training.

    python -m benchmarks.tools.campaign
    python -m benchmarks.tools.campaign --kills 20 --inputs 100 --parts kills,inputs --json campaign.json

Prints a table: tried, went on or was the same, one line, traceback, accepted wrongly, lost. The last three must be 0
everywhere; the exit code says so. The same seed makes the same inputs; the instants of the kills vary.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate
import train_rl
from agents.checkpoint import content_digest, load_checkpoint
from agents.files import write_json
from agents.metrics import read_metrics
from agents.options import check_numbers, option, parse, run_command
from benchmarks.common import ROOT
from benchmarks.tools.broken import FAULTS, HARMLESS
from benchmarks.tools.inputs import outcome, targets
from benchmarks.tools.soak import Usage, descendants, growth, usage
from benchmarks.tools.trials import LONGEST_S, Table, said, start, wait
from envs.errors import UserError

PARTS = ("kills", "inputs", "environments", "signals", "disks", "ranks", "soak")
UPDATES, PER_UPDATE = 40, 36
TINY = ["--env", "mnm/TMaze-v0", "--core", "lstm", "--num-envs", "4", "--rollout-steps", "9", "--minibatches", "2",
        "--hidden-size", "16", "--embedding-size", "16", "--log-every", "1", "--checkpoint-every", "3"]  # fmt: skip


@dataclass(frozen=True)
class CampaignConfig:
    """Options of the command."""

    kills: int = option(200, "kill -9 at random instants of training, start-up included")
    inputs: int = option(1000, "malformed inputs per target")
    disks: int = option(20, "runs on a disk that fills up")
    ranks: int = option(10, "runs of two ranks of which one, or all, are killed")
    soak_minutes: float = option(
        30.0, "minutes of training in which memory, descriptors and threads must not grow"
    )
    parts: str = option(",".join(PARTS), "what is tried, separated by commas")
    seed: int = option(0, "seed of the generators")
    json: str | None = option(None, "write the table to this file too", metavar="FILE")

    def __post_init__(self) -> None:
        check_numbers(self)
        for part in self.parts.split(","):
            if part not in PARTS:
                raise UserError(f"unknown part {part!r}; valid: {', '.join(PARTS)}")


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


def ranks(table: Table, place: Path, count: int, rng: random.Random) -> None:
    """Two ranks: one of them, or all with their launcher, is killed; the same command then goes on to its end."""
    whole, log = place / "whole", place / "log"

    def begin(run: Path) -> subprocess.Popen[bytes]:
        with log.open("w") as out:
            return subprocess.Popen(
                [sys.executable, str(ROOT / "train_rl.py"), *train_argv(run), "--ranks", "2"], cwd=ROOT,
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    begun = time.monotonic()
    assert begin(whole).wait() == 0, log.read_text()
    expected, lasts = weights_of(whole), time.monotonic() - begun
    for number in range(count):
        run = place / f"run{number}"
        process = begin(run)
        time.sleep(rng.uniform(0.2, 1.0) * lasts)
        everyone = descendants(process.pid)
        alone = [pid for pid in everyone if pid != process.pid and number % 2]
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(alone), signal.SIGKILL) if alone else os.killpg(process.pid, signal.SIGKILL)
        try:
            code = process.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            table.add("two ranks", "lost", f"{run.name}: the other rank did not end")
            continue
        time.sleep(1.0)
        if left := [pid for pid in everyone if Path(f"/proc/{pid}").exists()]:
            table.add("two ranks", "lost", f"{run.name}: {len(left)} processes stay")
        text = log.read_text(errors="replace")
        table.add("two ranks", "traceback" if "Traceback" in text else "went on", f"{code}: {text[-400:]}")
        if begin(run).wait() != 0:
            table.add("two ranks", "lost", f"{run.name}: {log.read_text(errors='replace')[-300:]}")
        elif fault := fault_of(run, expected):
            table.add("two ranks", "lost", f"{run.name}: {fault}")


def soak(table: Table, place: Path, minutes: float) -> None:
    """Long trainings side by side: with worker processes, and in environments that never end."""
    lengths = {"async": [*TINY, "--backend", "async"], "never ends": [*TINY, "--env",
               "benchmarks.tools.broken:campaign/Broken-v0", "--env-kwargs", '{"how": "never ends"}']}  # fmt: skip
    argv = {name: [*options, "--total-steps", "1e12"] for name, options in lengths.items()}
    pids = {
        name: start(train_rl.main, [*options, "--run-dir", str(place / name)], place / f"{name}.log")
        for name, options in argv.items()
    }
    samples: dict[str, list[Usage]] = {name: [] for name in pids}
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        time.sleep(min(2.0, 0.6 * minutes))
        for name, pid in pids.items():
            if found := usage(pid):
                samples[name].append(found)
    for name, pid in pids.items():
        os.kill(pid, signal.SIGTERM)
        code, grown = wait(pid), growth(samples[name])
        first, last = samples[name][len(samples[name]) // 4], samples[name][-1]
        print(f"soak, {name}: from {first} to {last}", flush=True)
        sound = code == 128 + signal.SIGTERM and not grown
        table.add(f"soak, {name}", "went on" if sound else "lost", f"exit code {code}; {grown}")


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
            elif part == "ranks":
                ranks(table, place, config.ranks, rng)
            elif part == "soak":
                soak(table, place, config.soak_minutes)
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
