"""Malformed inputs from seeded generators, one target for every kind of file that is read, and for the options.

A target makes a damaged input and has it read. What should happen is one line (UserError); what is read although it
was damaged must be the same as before, or be a value that a user could have meant.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import train_rl
from agents.checkpoint import content_digest, load_checkpoint
from agents.config import TrainConfig
from agents.metrics import MetricsFile, read_metrics
from agents.options import parse
from agents.pretrained import load_published_weights
from agents.run_dir import RunDirectory
from agents.trainer import Trainer
from benchmarks.common import ROOT
from envs.errors import UserError
from evaluate import EvaluateConfig
from recall.record.tape import Tape
from tasks.babi.reader import read_file

ODD: list[Any] = [None, True, -1, 0, 1, 1.5, 2**63, 1e300, float("nan"), "", "x", "\0", "nan", [], [1], {}, {"a": 1},
                  "9" * 400, "../..", "[/b]", "é"]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One kind of input."""

    name: str
    damage: Callable[[random.Random], Any]
    """Makes the input."""
    read: Callable[[Any], bool]
    """Reads it; returns whether what was read is acceptable. Raises UserError where it is refused."""


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Bytes with one bit flipped."""
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def spoiled(data: bytes, rng: random.Random) -> bytes:
    """Bytes with a flipped bit, cut off, with a stretch overwritten or doubled, or nothing like them."""
    kind, place = rng.randrange(6), rng.randrange(max(1, len(data)))
    if kind <= 1 and data:
        return flipped(data, rng)
    if kind == 2:
        return data[:place]
    if kind == 3:
        return data[:place] + rng.randbytes(rng.randrange(1, 40)) + data[place + 20 :]
    if kind == 4:
        return data[:place] + data[max(0, place - 30) :]
    return rng.choice([b"", b"\0" * 64, b"\xff\xfe", rng.randbytes(200), b"[" * 50_000, b"{}"])


def replaced(content: Any, rng: random.Random) -> Any:
    """A nested content with one entry dropped or replaced by something odd."""
    if isinstance(content, dict) and content and rng.random() < 0.9:
        key = rng.choice(list(content))
        if rng.random() < 0.2:
            return {k: v for k, v in content.items() if k != key}
        if rng.random() < 0.4 and isinstance(content[key], dict | list):
            return {**content, key: replaced(content[key], rng)}
        return {**content, key: rng.choice([*ODD, torch.zeros(3), torch.zeros(0, dtype=torch.uint8)])}
    if isinstance(content, list) and content and rng.random() < 0.9:
        place = rng.randrange(len(content))
        return [*content[:place], replaced(content[place], rng), *content[place + 1 :]]
    return rng.choice(ODD)


def plain(value: Any) -> Any:
    """What JSON can hold of an odd value."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return value if isinstance(value, int | float | str | bool | None) else None


def targets(run: Path, tape: Path, place: Path) -> list[Target]:
    """All targets, from a finished run and a tape of it; scratch files in `place`."""
    found = [
        _checkpoint_bits(run, place),
        _checkpoint_fields(run, place),
        _config(run, place),
        _metrics(run, place),
    ]
    return [
        *found,
        *_weights(place),
        _tape(tape, place),
        _babi(place),
        _train_options(place),
        _evaluate_options(),
    ]


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _checkpoint_bits(run: Path, place: Path) -> Target:
    source, path = run / "checkpoints" / "latest.pt", place / "bits.pt"
    whole, digest = source.read_bytes(), content_digest(load_checkpoint(source))
    return Target(
        "checkpoint, bytes",
        lambda rng: _written(path, spoiled(whole, rng)),
        lambda p: content_digest(load_checkpoint(p)) == digest,
    )


def _checkpoint_fields(run: Path, place: Path) -> Target:
    """Well-formed and under a right checksum, but with other entries: what hands or older versions may make."""
    content = load_checkpoint(run / "checkpoints" / "latest.pt")
    copy = place / "fields"
    shutil.copytree(run, copy)
    for old in (copy / "checkpoints").glob("*.pt"):
        old.unlink()

    def damage(rng: random.Random) -> Path:
        changed = replaced(content, rng)
        if isinstance(changed, dict):
            changed.pop("checksum", None)
            changed["checksum"] = content_digest(changed)
        torch.save(changed, copy / "checkpoints" / "latest.pt")
        return copy

    def read(path: Path) -> bool:
        config = RunDirectory(path).read_config(TrainConfig)
        trainer = Trainer(dataclasses.replace(config, run_dir=str(path)), resume=True)
        trainer.close()
        return True

    return Target("checkpoint, entries", damage, read)


def _config(run: Path, place: Path) -> Target:
    text = (run / "config.json").read_bytes()
    values, directory = json.loads(text), RunDirectory(place)

    def damage(rng: random.Random) -> Path:
        if rng.random() < 0.5:
            return _written(place / "config.json", spoiled(text, rng))
        return _written(place / "config.json", json.dumps(plain(replaced(values, rng))).encode())

    return Target(
        "config.json", damage, lambda _: isinstance(directory.read_config(TrainConfig), TrainConfig)
    )


def _metrics(run: Path, place: Path) -> Target:
    whole, path = (run / "metrics.csv").read_bytes(), place / "metrics.csv"

    def read(_: Path) -> bool:
        file = MetricsFile(path)
        file.forget_after(10**9)
        file.append({"updates": 10.0**9 + 1, "frames": 1.0})
        updates = [row["updates"] for row in read_metrics(path)]
        return updates == sorted(set(updates)) and updates[-1] == 10**9 + 1

    return Target("metrics.csv", lambda rng: _written(path, spoiled(whole, rng)), read)


def _weights(place: Path) -> list[Target]:
    folder = place / "published"
    shutil.copytree(ROOT / "pretrained" / "maze-lstm", folder)
    path = folder / "model.safetensors"
    whole, digest = path.read_bytes(), content_digest(load_published_weights(path)[0])

    def same(_: Path) -> bool:
        return content_digest(load_published_weights(path)[0]) == digest

    return [
        Target("published weights", lambda rng: _written(path, spoiled(whole, rng)), same),
        Target("published weights, bits", lambda rng: _written(path, flipped(whole, rng)), same),
    ]


def _tape(tape: Path, place: Path) -> Target:
    whole, path = tape.read_bytes(), place / "tape.npz"
    with np.load(tape) as archive:
        arrays = {name: archive[name] for name in archive.files}

    def damage(rng: random.Random) -> Path:
        if rng.random() < 0.6:
            return _written(path, spoiled(whole, rng))
        name = rng.choice(list(arrays))
        odd = [
            np.zeros(3),
            np.array("x"),
            np.array('{"format": 1}'),
            np.zeros((2, 0), np.int64),
            np.array(None, "U"),
        ]
        changed = {**arrays, name: odd[rng.randrange(len(odd))]}
        if rng.random() < 0.4:
            del changed[name]
        np.savez_compressed(path, **changed)
        return path

    return Target("tape", damage, lambda p: isinstance(Tape.load(p), Tape))


def _babi(place: Path) -> Target:
    path = place / "qa1_train.txt"
    whole = (
        b"1 Mary moved to the bathroom.\n2 John went to the hallway.\n3 Where is Mary? \tbathroom\t1\n" * 3
    )
    return Target(
        "bAbI", lambda rng: _written(path, spoiled(whole, rng)), lambda p: len(read_file(p, 1)) >= 1
    )


WORDS = ["", "--", "-1", "0", "1.5", "1e9", "1e18", "1e400", "nan", "inf", "2**63", str(2**63), "9" * 5000, "[/b]",
         "x" * 300, "a\0b", "'", "{", "[" * 2000, '{"x": ' + "9" * 5000 + "}", "é", "True", "none", "../x"]  # fmt: skip


def _argv(names: list[str], rng: random.Random) -> list[str]:
    argv: list[str] = []
    for _ in range(rng.randrange(1, 4)):
        name, word = rng.choice(names), rng.choice(WORDS)
        argv += [f"{name}={word}"] if rng.random() < 0.6 else [name, word]
    return argv


def _train_options(place: Path) -> Target:
    names = [f"--{name.replace('_', '-')}" for name in (*TrainConfig.__dataclass_fields__, "preset", "resume",
             "resume_or_start", "rank_timeout")]  # fmt: skip

    def read(argv: list[str]) -> bool:
        train_rl.read_command(argv)
        return True

    return Target(
        "train_rl.py options", lambda rng: [*_argv(names, rng), "--run-dir", str(place / "none")], read
    )


def _evaluate_options() -> Target:
    names = [
        f"--{name.replace('_', '-')}" for name in EvaluateConfig.__dataclass_fields__ if name != "run_dir"
    ]
    return Target(
        "evaluate.py options",
        lambda rng: ["run", *_argv(names, rng)],
        lambda argv: bool(parse(EvaluateConfig(), argv, description="", positional="run_dir")),
    )


def outcome(target: Target, rng: random.Random) -> tuple[str, str]:
    """How one damaged input ended: "one line", "same", "accepted wrongly" or "traceback"; and details of the latter."""
    given = target.damage(rng)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ("same", "") if target.read(given) else ("accepted wrongly", repr(given)[:200])
    except UserError as error:
        return ("one line", "") if "\n" not in str(error) else ("traceback", repr(error)[:200])
    except SystemExit:
        return "one line", ""
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error!s:.150} ({given!r:.200})"
