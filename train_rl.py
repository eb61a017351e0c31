"""Train an A2C or PPO agent with a memory core.

    python train_rl.py --preset maze --core mnm-p --run-dir runs/maze
    python train_rl.py --env MiniGrid-MemoryS7-v0 --core lstm --total-steps 500_000
    python train_rl.py --env my_package.my_envs:MyEnv-v0 --env-kwargs '{"size": 9}'
    python train_rl.py --run-dir runs/maze --resume

Ctrl-C finishes the update in hand, writes a checkpoint and exits with code 130; --resume continues it.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from agents.config import TrainConfig, check_resume
from agents.options import given, option, parse, run_command
from agents.presets import PRESETS, preset
from agents.run_dir import RunDirectory
from agents.trainer import Trainer
from envs.errors import UserError


@dataclass(frozen=True)
class Command(TrainConfig):
    """A training configuration and where it comes from."""

    resume: bool = option(False, "continue the run in --run-dir from its latest checkpoint", switch=True)
    preset: str | None = option(
        None, f"named set of defaults: {', '.join(PRESETS)}; other options win over it", metavar="NAME"
    )


def read_command(argv: Sequence[str]) -> tuple[TrainConfig, bool]:
    """The effective configuration and whether to resume; raises UserError."""
    resume = "--resume" in argv
    preset_name, run_dir = given(argv, "preset"), given(argv, "run-dir")
    if resume:
        if run_dir is None:
            raise UserError("--resume needs --run-dir, the run to continue")
        if preset_name is not None:
            raise UserError("--resume takes its options from the run itself; leave --preset out")
        defaults = dataclasses.replace(RunDirectory(Path(run_dir)).read_config(), run_dir=run_dir)
    else:
        defaults = preset(preset_name)
    values = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(TrainConfig)}
    command = parse(Command(**values), argv, description=__doc__ or "")
    config = TrainConfig(**{name: getattr(command, name) for name in values})
    if resume:
        check_resume(defaults, config)
    return config, resume


class StopSignal:
    """Turns the first Ctrl-C (or SIGTERM) into a request to stop after the update in hand."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.code = 0
        self.say = say
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.code:
            raise KeyboardInterrupt
        self.code = 128 + number
        self.say("Stopping after this update; once more stops at once, without a checkpoint.")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    config, resume = read_command(argv)
    console = Console(soft_wrap=True)
    trainer = Trainer(config, resume, console)
    stop = StopSignal(console.print)
    try:
        finished = trainer.run(stop=lambda: stop.code != 0)
    finally:
        trainer.close()
    where = trainer.directory.path
    if not finished:
        console.print(f"Stopped at {trainer.collector.frames:,} frames; continue: --run-dir {where} --resume")
        return stop.code
    console.print(
        f"Done: {trainer.collector.frames:,} frames in {where}; play it: python evaluate.py {where}"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
