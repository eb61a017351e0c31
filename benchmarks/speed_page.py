"""Tables of docs/speed.md: every benchmark puts its own where the page has a mark for it.

<!-- table end_to_end -->
...
<!-- end -->
"""

from __future__ import annotations

import re
from pathlib import Path

from agents.files import write_text

PAGE = Path(__file__).resolve().parent.parent / "docs" / "speed.md"


def put_table(name: str, text: str, page: Path = PAGE) -> None:
    """Replace what stands between the marks of `name`; raises ValueError if the page has none."""
    marks = re.compile(rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    content, found = marks.subn(lambda match: f"{match[1]}{text}\n{match[2]}", page.read_text())
    if found != 1:
        raise ValueError(f"{page} must have one place for the table {name!r}, found {found}")
    write_text(page, content)
