"""Train an A2C or PPO agent with a memory core.

    python train_rl.py --preset maze --core mnm-p --run-dir runs/maze
    python train_rl.py --env MiniGrid-MemoryS7-v0 --core lstm --total-steps 500_000
    python train_rl.py --env my_package.my_envs:MyEnv-v0 --env-kwargs '{"size": 9}'
    python train_rl.py --run-dir runs/maze --resume
    python train_rl.py --preset maze --total-steps 100_000 --profile
    torchrun --nproc-per-node 2 --max-restarts 3 train_rl.py --preset maze --num-envs 128 --run-dir runs/maze

The processes of torchrun train one policy together; --num-envs is their total. If one dies, torchrun starts
all of them again, and the run continues from its latest checkpoint.

Ctrl-C finishes the current update, writes a checkpoint and exits with code 130; --resume continues it.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from agents.config import ARCHITECTURE, FIXED_ON_RESUME, PRESETS, TrainConfig, preset
from agents.distributed import RankLost, join, leave, was_restarted
from agents.files import write_text
from agents.hints import hint
from agents.options import given, option, parse_parts, run_command
from agents.profile import Profile
from agents.progress import StopSignal
from agents.run_dir import RunDirectory, check_resume
from agents.trainer import Trainer
from envs.errors import EnvFault, UserError


@dataclass(frozen=True)
class Command:
    """Where the training configuration comes from."""

    resume: bool = option(False, "continue the run in --run-dir from its latest checkpoint", switch=True)
    resume_or_start: bool = option(
        False, "continue the run in --run-dir if it exists, else start it (so does a restart by torchrun)",
        switch=True,
    )  # fmt: skip
    profile: bool = option(False, "print at the end where the time went; write profile.csv", switch=True)
    preset: str | None = option(
        None, f"named set of defaults: {', '.join(PRESETS)}; other options win over it", metavar="NAME"
    )


def read_command(argv: Sequence[str], restarted: bool = False) -> tuple[TrainConfig, Command]:
    """The effective configuration, and the command with `resume` decided; raises UserError."""
    resume = "--resume" in argv
    preset_name, run_dir = given(argv, "preset"), given(argv, "run-dir")
    if resume:
        if run_dir is None:
            raise UserError("--resume needs --run-dir, the run to continue")
        if preset_name is not None:
            raise UserError("--resume takes its options from the run itself; leave --preset out")
        defaults = dataclasses.replace(RunDirectory(Path(run_dir)).read_config(TrainConfig), run_dir=run_dir)
    else:
        defaults = preset(preset_name)
    config: TrainConfig
    command: Command
    config, command = parse_parts((defaults, Command()), argv, description=__doc__ or "")
    if resume:
        check_resume(defaults, config, FIXED_ON_RESUME, ARCHITECTURE)
    elif command.resume_or_start or restarted:
        run = RunDirectory(config.directory())
        resume = run.checkpoint("latest").exists()
        if resume:
            check_resume(run.read_config(TrainConfig), config, FIXED_ON_RESUME, ARCHITECTURE)
    return config, dataclasses.replace(command, resume=resume)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    ranks = join()
    restarted = ranks.any(was_restarted())
    config, command = ranks.from_first(lambda: read_command(argv, restarted))
    ranks.from_first(lambda: ranks.share(config.num_envs))
    console = Console(soft_wrap=True, quiet=not ranks.leads)
    trainer = Trainer(config, command.resume, console, ranks)
    profile, frames_before = Profile(), trainer.collector.frames
    stop, where = StopSignal(console.print), trainer.directory.path
    try:
        with profile if command.profile else nullcontext():
            finished = trainer.run(stop=lambda: stop.code != 0)
        if command.profile and ranks.leads:
            profile.report(trainer.collector.frames - frames_before, console, where / "profile.csv")
    except EnvFault as error:
        if error.trace:
            write_text(where / "fault.txt", error.trace)
        trace = f"; traceback in {where / 'fault.txt'}" if error.trace else ""
        raise UserError(
            f"{error}{trace}; the latest checkpoint is whole: --run-dir {where} --resume"
        ) from error
    except RankLost as error:
        raise UserError(f"{error}; the latest checkpoint is whole: --run-dir {where} --resume") from error
    finally:
        trainer.close()
    leave(ranks)
    if not finished:
        console.print(f"Stopped at {trainer.collector.frames:,} frames; continue: --run-dir {where} --resume")
        return stop.code or 128 + signal.SIGINT
    play = hint(f"python evaluate.py {where}")
    console.print(f"Done: {trainer.collector.frames:,} frames in {where}; play it: {play}")
    return 0


if __name__ == "__main__":
    run_command(main)
