"""The table of what a memory is worth: every kind of row can be measured, and the page shows the committed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.common import ROOT
from benchmarks.studies import ceilings

ROWS: dict[str, Callable[[], dict[str, Any]]] = {
    "bandit": lambda: ceilings.bandit_row({"contexts": 16}),
    "treasure": lambda: ceilings.treasure_row({"side": 7}, 3),
    "island": lambda: ceilings.island_row({}, 3),
    "maze": lambda: ceilings.maze_row(9, 3),
}


@pytest.mark.parametrize("name", ROWS)
def test_who_knows_more_earns_more(name):
    found = ROWS[name]()
    values = [
        found[column] for column in ("random", "memoryless", "remembers", "knows") if found[column] != ""
    ]
    assert len(values) >= 3
    assert values == sorted(values)


def test_the_page_shows_the_committed_table(capsys):
    assert ceilings.main(["--summary"]) == 0
    printed = capsys.readouterr().out.strip()
    assert len(printed.splitlines()) > 15
    assert printed in (ROOT / "docs" / "memory_tasks.md").read_text()
