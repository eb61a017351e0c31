"""Hints name commands that the user can type: `python evaluate.py` in a checkout, `mnm-evaluate` once installed.

Texts in the code are written for a checkout; `hint` rewrites them where the toolkit was installed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The folder of the toolkit: a checkout, or the installed package `mnm_rl`."""
INSTALLED = (ROOT / "__init__.py").is_file()
COMMANDS = {"train_rl.py": "mnm-train", "evaluate.py": "mnm-evaluate", "train_task.py": "mnm-task"}


def is_elsewhere(asked: str) -> bool:
    """Whether a name that was typed is that of an agent trained elsewhere (`agents/elsewhere.py`), and not of a run."""
    return ":" in asked and not os.path.isdir(asked)  # false for a name that no file can have


def resume_command(script: str, run_dir: Path) -> str:
    """What continues a run, for a shell."""
    return f"{hint(f'python {script}')} --run-dir {shlex.quote(str(run_dir))} --resume"


def hint(text: str, started_as: str | None = None) -> str:
    """`text` with every `python evaluate.py` and its like replaced by what starts that command here.

    `started_as` is the program in use (None: sys.argv[0]). A script without `python` before it is torchrun's.
    """
    program = Path(sys.argv[0] if started_as is None else started_as)

    def typed(found: re.Match[str]) -> str:
        script = found["script"]
        if not INSTALLED and program.name not in COMMANDS.values():
            path = script if Path(script).resolve() == ROOT / script else str(ROOT / script)
            return f"{found['python']}{path}"
        command = COMMANDS[script]
        if shutil.which(command) is None and program.with_name(command).is_file():
            command = str(program.with_name(command))
        return command if found["python"] else f"--no-python {command}"

    return re.sub(rf"(?P<python>(?:python )?)\b(?P<script>{'|'.join(map(re.escape, COMMANDS))})", typed, text)
