"""Writes docs/options.md, the table of training options, from the dataclass that declares them.

python -m docs.options
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from agents.config import PRESETS, TrainConfig
from agents.options import by_heading

PAGE = Path(__file__).with_name("options.md")

TEXT = f"""# Options of `train_rl.py`

<!-- Written by `python -m docs.options` from `agents/config.py`; do not edit by hand. -->

`python train_rl.py --help` prints the same list; `python evaluate.py --help` and `python train_task.py TASK --help`
print those of the other two commands. `--preset` ({", ".join(f"`{name}`" for name in PRESETS)}) sets named defaults,
which options on the command line override. `--resume` continues the run in `--run-dir`. A switch such as `--anneal`
is turned off with `--no-anneal`.
"""


def page() -> str:
    """The text of docs/options.md."""
    parts = [TEXT]
    for title, fields in by_heading(TrainConfig).items():
        heading = title[:1].upper() + title[1:] or "Training"
        parts.append(f"\n## {heading}\n\n| option | default | meaning |\n|---|---|---|\n")
        parts += [row(field) for field in fields]
    return "".join(parts)


def row(field: dataclasses.Field[Any]) -> str:
    """A line of a table."""
    default = "none" if field.default == () else field.default
    return f"| `--{field.name.replace('_', '-')}` | `{default}` | {field.metadata['help']} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
