"""The README tells the truth about the options: every one is listed with its default and its description."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from agents.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("field", dataclasses.fields(TrainConfig), ids=lambda field: field.name)
def test_every_option_is_in_the_readme(field: dataclasses.Field[object]) -> None:
    row = f"| `--{field.name.replace('_', '-')}` | `{field.default}` | {field.metadata['help']} |"
    assert row in (ROOT / "README.md").read_text()


def test_every_local_link_of_the_readme_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
