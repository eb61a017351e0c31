"""A short campaign: a few kills, malformed inputs for every target, two broken environments, a small disk."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from benchmarks.tools import campaign
from benchmarks.tools.soak import Usage, descendants, growth, usage
from benchmarks.tools.trials import Table


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.mark.slow
def test_malformed_inputs_are_one_line_and_never_accepted_wrongly(table: Table, tmp_path: Path) -> None:
    campaign.malformed(table, tmp_path, 25, random.Random(1))
    assert table.sound, "\n".join([*table.lines(), *table.details])
    assert len(table.rows) == 10
    assert all(sum(counts.values()) == 25 for counts in table.rows.values())


@pytest.mark.slow
def test_a_few_kills_and_a_full_disk_lose_nothing(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "UPDATES", 12)
    for part in ("kills", "disks"):
        (tmp_path / part).mkdir()
    campaign.kills(table, tmp_path / "kills", 6, random.Random(2))
    campaign.disks(table, tmp_path / "disks", 2, random.Random(3))
    assert table.sound, "\n".join([*table.lines(), *table.details])


def test_what_grows_is_named() -> None:
    flat = [Usage(100 * 2**20, 20, 3)] * 8
    assert growth(flat) == ""
    assert growth([*flat, *[Usage(110 * 2**20, 21, 4)] * 4]) == (
        "memory 100 -> 110 MiB, descriptors 20 -> 21, threads 3 -> 4"
    )
    peak = [*flat[:2], Usage(900 * 2**20, 20, 3), *flat[:2]]
    assert growth([*flat, *flat, *flat[:3], *peak]) == "", "one sample is no growth"
    assert "too few" in growth(flat[:3])


def test_what_a_process_holds_includes_its_children() -> None:
    before = usage(os.getpid())
    with subprocess.Popen(["sleep", "30"]) as child:
        held = usage(os.getpid())
        assert child.pid in descendants(os.getpid())
        child.kill()
    assert before is not None
    assert held is not None
    assert held.threads > before.threads
    assert held.descriptors > before.descriptors


def test_the_table_counts_what_must_not_be(table: Table) -> None:
    table.add("x", "one line")
    assert table.sound
    table.add("x", "traceback", "KeyError")
    assert not table.sound
    assert table.details == ["x: traceback: KeyError"]
    assert "traceback" in table.lines()[0]
