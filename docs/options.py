"""Writes docs/options.md, the table of training options, from the dataclass that declares them.

python -m docs.options
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from agents.config import PRESETS, TrainConfig

PAGE = Path(__file__).with_name("options.md")

TEXT = """# Options of `train_rl.py`

<!-- Written by `python -m docs.options` from `agents/config.py`; do not edit by hand. -->

`python train_rl.py --help` prints the same list; `python evaluate.py --help` and `python train_task.py TASK --help`
print those of the other two commands. `--preset` sets named defaults, which options on the command line override; the
presets are PRESETS.
`--resume` continues the run in `--run-dir`. A switch such as `--anneal` is turned off with `--no-anneal`.

| option | default | meaning |
|---|---|---|
"""


def page() -> str:
    """The text of docs/options.md."""
    return TEXT.replace("PRESETS", ", ".join(f"`{name}`" for name in PRESETS)) + "".join(
        f"| `--{field.name.replace('_', '-')}` | `{field.default}` | {field.metadata['help']} |\n"
        for field in dataclasses.fields(TrainConfig)
    )


if __name__ == "__main__":
    PAGE.write_text(page())
