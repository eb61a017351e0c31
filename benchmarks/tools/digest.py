"""Digests of what every core computes: a change that must not change a number leaves all of them equal.

    python -m benchmarks.tools.digest > before.txt
    python -m benchmarks.tools.digest --against before.txt          after the change; names what differs, exit code 1
    python -m benchmarks.tools.digest --cores lstm,mnm-p --agents ""

Every core is trained for some updates (maze with PPO and A2C, MiniGrid, a supervised task) and its maze agent is
evaluated; published agents play some episodes. Weights, returns, tape and GIF are hashed. Digests of two machines
differ in the last bits of their arithmetic: compare on one machine.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.checkpoint import load_checkpoint
from agents.options import option, parse, run_command, suggestion
from benchmarks.common import ROOT
from envs.errors import UserError
from memory import CORES

MAZE = "--preset maze --num-envs 16 --rollout-steps 50 --total-steps 4000 --log-every 1"
MINIGRID = (
    "--env MiniGrid-MemoryS7-v0 --backend sync --num-envs 4 --minibatches 2 --rollout-steps 40 --total-steps 480"
    " --no-normalize-rewards"
)
PUBLISHED = "maze-mnm-p,maze-lstm,memory-s13-mnm-g,three-arms-mnm-p"


@dataclass(frozen=True)
class DigestConfig:
    """Options of the command."""

    cores: str = option(",".join(CORES), "cores to train, separated by commas", metavar="NAMES")
    agents: str = option(PUBLISHED, "published agents to play, separated by commas", metavar="NAMES")
    against: str | None = option(None, "compare with what an earlier call printed", metavar="FILE")

    def __post_init__(self) -> None:
        for core in names(self.cores):
            if core not in CORES:
                raise UserError(f"unknown core {core!r}{suggestion(core, CORES)}; valid: {', '.join(CORES)}")


def names(text: str) -> list[str]:
    """The names in a list separated by commas."""
    return [name for name in text.split(",") if name]


def digest(parts: Iterable[bytes]) -> str:
    """16 hexadecimal digits of all parts in a row."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def weights(run: Path) -> str:
    """Of the latest checkpoint."""
    model = load_checkpoint(run / "checkpoints" / "latest.pt")["model"]
    return digest(
        part for name in sorted(model) for part in (name.encode(), model[name].contiguous().numpy().tobytes())
    )


def returns(path: Path) -> str:
    """Of the result of an evaluation."""
    return digest([json.dumps(json.loads(path.read_text())["returns"]).encode()])


def tape(path: Path) -> str:
    """Of every array of a tape."""
    with np.load(path, allow_pickle=False) as arrays:
        return digest(arrays[name].tobytes() for name in sorted(arrays.files))


def run(command: str) -> None:
    """A command of the toolkit; raises UserError with its last line if it fails."""
    words = command.split()
    done = subprocess.run(
        [sys.executable, str(ROOT / words[0]), *words[1:]], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        raise UserError(f"python {command} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")


def of_core(core: str, folder: Path) -> Iterator[str]:
    """The lines of one core."""
    maze = folder / f"maze-{core}-ppo"
    run(f"train_rl.py {MAZE} --core {core} --run-dir {maze}")
    run(
        f"evaluate.py {maze} --episodes 8 --json {maze}/eval.json --tape {maze}/tape.npz --gif {maze}/recall.gif"
    )
    found = weights(maze), returns(maze / "eval.json"), tape(maze / "tape.npz")
    gif = digest([(maze / "recall.gif").read_bytes()])
    yield "{} weights {} returns {} tape {} gif {}".format(maze.name, *found, gif)
    for name, command in (
        (f"maze-{core}-a2c", f"train_rl.py {MAZE} --algo a2c"),
        (f"minigrid-{core}", f"train_rl.py {MINIGRID}"),
        (f"dictionary-{core}", "train_task.py dictionary --steps 30"),
    ):
        run(f"{command} --core {core} --run-dir {folder / name}")
        yield f"{name} weights {weights(folder / name)}"


def of_agent(name: str, folder: Path) -> str:
    """The line of a published agent."""
    result = folder / f"{name}.json"
    run(f"evaluate.py pretrained/{name} --episodes 6 --json {result}")
    return f"{name} returns {returns(result)}"


def differences(lines: Sequence[str], before: Sequence[str]) -> list[str]:
    """What differs between two lists of lines with equal first words; names of one list alone are left out."""
    old = {line.split()[0]: line.split()[1:] for line in before if line.strip()}
    found = []
    for name, *pairs in (line.split() for line in lines):
        was = dict(zip(old.get(name, [])[::2], old.get(name, [])[1::2], strict=True))
        now = dict(zip(pairs[::2], pairs[1::2], strict=True))
        found += [f"{name}: {kind}" for kind in now if kind in was and was[kind] != now[kind]]
    return found


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config = parse(DigestConfig(), argv, description=__doc__ or "")
    before = Path(config.against).read_text().splitlines() if config.against else []
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for core in names(config.cores):
            for line in of_core(core, Path(folder)):
                print(line, flush=True)
                lines.append(line)
        for name in names(config.agents):
            lines.append(of_agent(name, Path(folder)))
            print(lines[-1], flush=True)
    changed = differences(lines, before)
    for line in changed:
        print(f"differs: {line}")
    if config.against and not changed:
        print("nothing differs")
    return 1 if changed else 0


if __name__ == "__main__":
    run_command(main)
