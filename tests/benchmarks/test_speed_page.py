"""Tables of the speed page: a benchmark replaces its own and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.files import read_csv
from benchmarks.report.speed_page import PAGE, put_table
from benchmarks.speed import end_to_end, env_backends, pixels, recurrent_speed


def test_a_table_replaces_the_one_before_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- table x -->\nold\n<!-- end -->\nb\n<!-- table y -->\nkept\n<!-- end -->\n")
    put_table("x", "| new \\1 |", page)
    assert page.read_text() == (
        "a\n<!-- table x -->\n| new \\1 |\n<!-- end -->\nb\n<!-- table y -->\nkept\n<!-- end -->\n"
    )
    with pytest.raises(ValueError, match="'z'"):
        put_table("z", "", page)


@pytest.mark.parametrize("benchmark", [env_backends, end_to_end, pixels, recurrent_speed])
def test_the_page_shows_what_the_csv_says(benchmark: object) -> None:
    rows = read_csv(benchmark.RESULTS)  # type: ignore[attr-defined]
    if rows:
        assert benchmark.table(rows) in PAGE.read_text()  # type: ignore[attr-defined]
