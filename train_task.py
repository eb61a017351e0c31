"""Train a supervised task; TASK is one of those listed below, each with options of its own.

    python train_task.py dictionary --core mnm-p --run-dir runs/dictionary
    python train_task.py TASK --help
    python train_task.py --run-dir runs/dictionary --resume

Ctrl-C finishes the current update, writes a checkpoint and exits with code 130; --resume continues it.
A run that reaches its end tests its best weights and writes result.json, tables and pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.core_options import CoreOptions
from agents.files import check_writable, write_json
from agents.hints import resume_command
from agents.options import given, option, parse_parts, run_command, suggestion
from agents.run_dir import RunDirectory, check_resume
from envs.errors import Diverged, Stopped, UserError
from tasks import TASKS
from tasks.config import TaskConfig
from tasks.task import TaskEntry

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Command:
    """What the command is told beside the configuration of the run."""

    resume: bool = option(False, "continue the run in --run-dir from its latest checkpoint", switch=True)
    json: str | None = option(None, "write the result to this file too", metavar="FILE")


def find_task(name: object) -> TaskEntry:
    """The entry of a task; raises UserError with the nearest name."""
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}{suggestion(str(name), TASKS)}; valid: {', '.join(TASKS)}")
    return TASKS[str(name)]


def list_of_tasks() -> str:
    """The tasks and what each one learns."""
    return "tasks:\n" + "\n".join(f"  {name:20} {entry.summary}" for name, entry in TASKS.items())


def read_command(argv: Sequence[str]) -> tuple[TaskConfig, Command]:
    """The effective configuration and the command's own options; raises UserError."""
    words = list(argv)
    name = words[0] if words and not words[0].startswith("-") else None
    defaults = find_task(name).defaults if name is not None else TaskConfig()
    description = f"{__doc__}\n{list_of_tasks()}"
    resume, run_dir = "--resume" in words, given(words, "run-dir")
    if "--help" in words or "-h" in words:
        parse_parts((defaults, Command()), words, description, positional="task")
    if resume:
        if run_dir is None:
            raise UserError("--resume needs --run-dir, the run to continue")
        directory = RunDirectory(Path(run_dir))
        stored_name = directory.read_values().get("task")
        defaults = directory.read_config(type(find_task(stored_name).defaults))
        defaults = dataclasses.replace(defaults, run_dir=run_dir)
        if name is None:
            words.insert(0, str(stored_name))
    elif name is None:
        raise UserError(f"the first word must be the task, one of: {', '.join(TASKS)}")
    config, command = parse_parts((defaults, Command()), words, description, positional="task")
    if resume:
        names = [field.name for field in dataclasses.fields(config)]
        check_resume(defaults, config, [n for n in names if n not in config.MAY_CHANGE])
        command = dataclasses.replace(command, resume=not RunDirectory(config.directory()).is_new())
    if command.json is not None:
        check_writable(command.json)
    return config, command


def show(console: Console, result: dict[str, Any]) -> None:
    """Print the figures of a result, without the lists and tables that result.json holds."""
    from agents.progress import print_table

    figures = {
        name: f"{value:.4g}" if isinstance(value, float) else value
        for name, value in result.items()
        if not isinstance(value, dict | list)
    }
    print_table(console, "Result", figures)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code. What is wrong with the options is said before PyTorch is loaded."""
    config, command = read_command(argv)
    from agents.progress import StopSignal, make_console
    from tasks.trainer import TaskTrainer

    console = make_console()
    if isinstance(config, CoreOptions) and (ignored := config.no_effect(argv)):
        console.print(ignored, markup=False)
    trainer = TaskTrainer(config, command.resume, console)
    stop = StopSignal(console.print)
    where = trainer.directory.path
    try:
        finished = trainer.run(stop=lambda: stop.code != 0, save_asked=stop.save_asked)
    except Stopped as error:
        again = resume_command("train_task.py", where)
        raise Stopped(f"{error}; the latest checkpoint is whole: {again}") from error
    except Diverged as error:
        again = resume_command("train_task.py", where)
        raise Stopped(
            f"{error}; the checkpoint of before is whole. Try a lower --learning-rate or --max-grad-norm: {again} "
            f"--learning-rate {config.learning_rate / 2:g}"
        ) from error
    if not finished:
        console.print(
            f"Stopped at {trainer.updates:,} updates; continue: {resume_command('train_task.py', where)}"
        )
        return stop.code
    result = trainer.finish()
    show(console, result)
    if command.json is not None:
        write_json(command.json, result)
    console.print(f"Done: {trainer.updates:,} updates in {where}")
    return 0


if __name__ == "__main__":
    run_command(main)
