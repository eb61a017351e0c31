"""Files appear whole or not at all: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from envs.errors import UserError

Row = dict[str, str]
"""A row of a CSV file, by column."""


def check_writable(path: str | Path) -> Path:
    """Refuse early, before minutes of work, a path at which no file can be written."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a directory; give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: the directory {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write {path}: no permission to write in {path.parent}")
    return path


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` only if the block ends without an error."""
    path = check_writable(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; give it the mode that an ordinary open() would have given.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_file(path) as file:
        file.write(text.encode())


def read_csv(path: Path) -> list[Row]:
    """Rows of a CSV file; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def renew_csv(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    key: Sequence[str],
    order: Callable[[Mapping[str, Any]], Any] | None = None,
) -> None:
    """Put `rows` in the place of those that have the same values in the columns `key`; all other rows stay.

    Sorted by `order`; without one the new rows are last.
    """

    def known_as(row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in key)

    renewed = {known_as(row) for row in rows}
    merged = [*(row for row in read_csv(path) if known_as(row) not in renewed), *rows]
    write_csv(path, merged if order is None else sorted(merged, key=order))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, atomically; a cell is empty where a row lacks the column. Nothing if there are no rows."""
    if not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
