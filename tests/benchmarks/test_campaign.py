"""A short campaign: a few kills, malformed inputs for every target, two broken environments, a small disk."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.tools import campaign
from benchmarks.tools.campaign import Table


@pytest.fixture
def table() -> Table:
    return Table()


def test_malformed_inputs_are_one_line_and_never_accepted_wrongly(table: Table, tmp_path: Path) -> None:
    campaign.malformed(table, tmp_path, 25, random.Random(1))
    assert table.sound, "\n".join([*table.lines(), *table.details])
    assert len(table.rows) == 9
    assert all(sum(counts.values()) == 25 for counts in table.rows.values())


def test_a_few_kills_and_a_full_disk_lose_nothing(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "UPDATES", 12)
    for part in ("kills", "disks"):
        (tmp_path / part).mkdir()
    campaign.kills(table, tmp_path / "kills", 6, random.Random(2))
    campaign.disks(table, tmp_path / "disks", 2, random.Random(3))
    assert table.sound, "\n".join([*table.lines(), *table.details])


def test_the_table_counts_what_must_not_be(table: Table) -> None:
    table.add("x", "one line")
    assert table.sound
    table.add("x", "traceback", "KeyError")
    assert not table.sound
    assert table.details == ["x: traceback: KeyError"]
    assert "traceback" in table.lines()[0]
