"""Train an A2C or PPO agent with a memory core.

    python train_rl.py --preset maze --core mnm-p --run-dir runs/maze
    python train_rl.py --env MiniGrid-MemoryS7-v0 --core lstm --total-steps 500_000
    python train_rl.py --env my_package.my_envs:MyEnv-v0 --env-kwargs '{"size": 9}'
    python train_rl.py --run-dir runs/maze --resume
    python train_rl.py --preset maze --total-steps 100_000 --profile
    python train_rl.py --preset maze --num-envs 128 --ranks 2 --run-dir runs/maze
    torchrun --nproc-per-node 2 --max-restarts 3 train_rl.py --preset maze --num-envs 128 --run-dir runs/maze

The processes (ranks) train one policy together; --num-envs is their total. If one of torchrun's dies, it starts
all of them again, and the run continues from its latest checkpoint.

Ctrl-C (or SIGTERM, SIGHUP) finishes the current update, writes a checkpoint and exits with code 130; --resume
continues it. SIGUSR1 writes a checkpoint and goes on.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import signal
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agents.config import ARCHITECTURE, FIXED_ON_RESUME, PRESETS, TrainConfig, preset
from agents.files import write_text
from agents.hints import hint, resume_command
from agents.launch import RANK_TIMEOUT, is_rank, launch, rank_count, stay_with_launcher
from agents.options import given, option, parse_parts, run_command
from agents.run_dir import RunDirectory, announce_modules, check_resume
from envs.errors import Diverged, EnvFault, Stopped, UserError

if TYPE_CHECKING:
    from agents.distributed import Ranks
    from agents.trainer import Trainer


@dataclass(frozen=True)
class Command:
    """Where the training configuration comes from."""

    resume: bool = option(False, "continue the run in --run-dir from its latest checkpoint", switch=True)
    resume_or_start: bool = option(
        False, "continue the run in --run-dir if it exists, else start it (so does a restart by torchrun)",
        switch=True,
    )  # fmt: skip
    profile: bool = option(False, "print at the end where the time went; write profile.csv", switch=True)
    ranks: str = option(
        "1",
        "processes that train one policy together; auto: one per GPU, else one per core",
        metavar="N|auto",
    )
    rank_timeout: float = option(
        RANK_TIMEOUT, "torchrun: seconds that the processes wait for one another before they give up"
    )
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
        resume = not RunDirectory(config.directory()).is_new()
    elif command.resume_or_start or restarted:
        run = RunDirectory(config.directory())
        if run.has_checkpoint():
            # The command of an older run means what it meant then, but for what it says itself.
            words = {word.split("=")[0].removeprefix("--").removeprefix("no-") for word in argv}
            older = run.options_before(TrainConfig).items()
            config = dataclasses.replace(
                config, **{name: value for name, value in older if name.replace("_", "-") not in words}
            )
            check_resume(run.read_config(TrainConfig), config, FIXED_ON_RESUME, ARCHITECTURE)
            resume = True
    return config, dataclasses.replace(command, resume=resume)


def rank_timeout(argv: Sequence[str]) -> float:
    """--rank-timeout, which is needed before the ranks can agree on anything else."""
    text = given(argv, "rank-timeout")
    try:
        seconds = RANK_TIMEOUT if text is None else float(text)
    except ValueError:
        seconds = math.nan
    if not 1.0 <= seconds <= 1e6:
        raise UserError(f"--rank-timeout must be a number of seconds of at least 1, got {text}")
    return seconds


def ended(error: UserError, trainer: Trainer) -> Stopped:
    """The one line about a run that could not go on, with what continues it; a traceback goes to a file."""
    where, said = trainer.directory.path, str(error)
    again = resume_command("train_rl.py", where)
    if isinstance(error, EnvFault) and error.trace:
        with suppress(UserError):
            write_text(where / "fault.txt", error.trace)
            said += f"; traceback in {where / 'fault.txt'}"
    if not trainer.directory.has_checkpoint():
        return Stopped(said)
    if not isinstance(error, Diverged):
        return Stopped(f"{said}; the latest checkpoint is whole: {again}")
    lower = f"{again} --learning-rate {trainer.config.learning_rate / 2:g}"
    return Stopped(
        f"update {trainer.updates + 1}: {said}; the checkpoint of before is whole. Try a lower --learning-rate or "
        f"--max-grad-norm, or smaller rewards (--reward-scale, in a new run): {lower}"
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code. What is wrong with the options is said before PyTorch is loaded."""
    asked, timeout = None, rank_timeout(argv)
    if not is_rank():
        asked = config, command = read_command(argv)
        count = rank_count(command.ranks, config.num_envs, config.device)
        if count > 1:
            from agents.distributed import Ranks

            Ranks(count=count).share(config.num_envs)
            return launch(count, argv)
    from agents.distributed import join, was_restarted

    if is_rank() and not stay_with_launcher():
        return 1
    ranks = join(timeout)
    restarted = ranks.any(was_restarted())
    config, command = asked or ranks.from_first(lambda: read_command(argv, restarted))
    ranks.from_first(lambda: ranks.share(config.num_envs))
    return train(config, command, ranks, argv)


def train(config: TrainConfig, command: Command, ranks: Ranks, argv: Sequence[str]) -> int:
    """The run of this rank, from its beginning or its checkpoint; returns the exit code."""
    from agents.distributed import leave
    from agents.profile import Profile
    from agents.progress import StopSignal, make_console
    from agents.trainer import Trainer

    console = make_console(quiet=not ranks.leads)
    if ignored := config.no_effect(argv):
        console.print(ignored, markup=False)
    if "--resume" in argv and not command.resume:
        console.print("No checkpoint was written yet: the run starts from its beginning.")
    if command.resume and ranks.leads:
        announce_modules(config, config.directory())
    trainer = Trainer(config, command.resume, console, ranks)
    profile, frames_before = Profile(), trainer.collector.frames
    stop, where = StopSignal(console.print), trainer.directory.path
    try:
        with profile if command.profile else nullcontext():
            finished = trainer.run(stop=lambda: stop.code != 0, save_asked=stop.save_asked)
        if command.profile and ranks.leads:
            profile.report(trainer.collector.frames - frames_before, console, where / "profile.csv")
    except UserError as error:
        if isinstance(error, Diverged) and not ranks.leads:
            raise SystemExit(error.code) from error  # it happened on all ranks; one says so
        raise ended(error, trainer) from error
    finally:
        trainer.close()
    leave(ranks)
    if not finished:
        console.print(
            f"Stopped at {trainer.collector.frames:,} frames; continue: {resume_command('train_rl.py', where)}"
        )
        return stop.code or 128 + signal.SIGINT
    play = hint(f"python evaluate.py {shlex.quote(str(where))}")
    console.print(f"Done: {trainer.collector.frames:,} frames in {where}; play it: {play}")
    return 0


if __name__ == "__main__":
    run_command(main)
