"""metrics.csv: one row per log point, appended whole; a damaged row is dropped and never stops a run.

The file's header decides the order of columns. A row with further ones (an older file, a new version) rewrites it.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import NamedTuple

from agents.files import cannot_write, write_text
from envs.errors import Stopped

Row = dict[str, float]


class Metrics(NamedTuple):
    """What a metrics.csv holds."""

    columns: list[str]
    """Empty where there is no file or no usable header."""
    rows: list[Row]
    dropped: int
    """Rows that could not be read: torn, of another length, or no numbers."""


def parse_metrics(path: Path) -> Metrics:
    """The rows of a metrics.csv that are whole; an empty cell becomes NaN."""
    if not path.is_file():
        return Metrics([], [], 0)
    *lines, torn = path.read_bytes().decode(errors="replace").split("\n")
    lines = lines or [""]
    columns = lines[0].rstrip("\r").split(",")
    if "updates" not in columns or len(set(columns)) < len(columns) or not all(map(str.isprintable, columns)):
        return Metrics([], [], len(lines) if lines != [""] or torn else 0)
    rows = [_row(line.rstrip("\r"), columns) for line in lines[1:] if line.strip("\r")]
    # A last line without its end may be half a number.
    dropped = sum(row is None for row in rows) + bool(torn)
    return Metrics(columns, [row for row in rows if row is not None], dropped)


def _row(line: str, columns: list[str]) -> Row | None:
    cells = line.split(",")
    try:
        row = {name: float(cell) if cell else math.nan for name, cell in zip(columns, cells, strict=True)}
    except ValueError:
        return None
    return row if row["updates"] >= 0 else None


def read_metrics(path: Path) -> list[Row]:
    """Rows of a metrics.csv; an empty cell becomes NaN."""
    return parse_metrics(path).rows


def format_number(value: float) -> str:
    """Short decimal text that keeps whole numbers whole; empty for NaN."""
    if math.isnan(value):
        return ""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


class MetricsFile:
    """The writer of one metrics.csv."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] | None = None
        """Those of the file; None before anybody looked."""

    def append(self, row: Row) -> None:
        """Add a row with one write; raises Stopped where the file cannot be written."""
        if self.columns is None or not self.path.exists():
            self.columns = self.check().columns
        if not set(row) <= set(self.columns):
            held = parse_metrics(self.path)
            self._write([*held.columns, *(name for name in row if name not in held.columns)], held.rows)
        assert self.columns is not None
        self._append(_line(row, self.columns).encode())

    def forget_after(self, updates: int) -> str | None:
        """Drop the rows that a resumed run writes again, and damaged ones; returns a line on the latter."""
        held = self.check()
        if held.dropped and not held.columns:
            aside = self.path.with_name("metrics.csv.damaged")
            os.replace(self.path, aside)
            return f"{self.path} could not be read; it is kept as {aside.name}, and a new one begins."
        kept: list[Row] = []
        for row in held.rows:
            if row["updates"] <= updates and (not kept or row["updates"] > kept[-1]["updates"]):
                kept.append(row)
        if held.dropped or len(kept) < len(held.rows):
            self._write(held.columns, kept)
        self.columns = held.columns
        return f"{self.path}: {held.dropped} damaged row(s) dropped." if held.dropped else None

    def check(self) -> Metrics:
        """What the file holds; a link or a device in its place is refused, for it would be written outside."""
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            raise Stopped(
                f"{self.path} is not a regular file; metrics are only written inside the run directory"
            )
        return parse_metrics(self.path)

    def _write(self, columns: list[str], rows: list[Row]) -> None:
        if columns:
            write_text(self.path, "".join([",".join(columns) + "\n", *(_line(row, columns) for row in rows)]))
        self.columns = columns

    def _append(self, data: bytes) -> None:
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            before = os.fstat(handle)
            if not stat.S_ISREG(before.st_mode):
                raise Stopped(f"{self.path} is not a regular file")
            if os.write(handle, data) < len(data):
                os.ftruncate(handle, before.st_size)
                raise Stopped(f"cannot write {self.path}: no space left on device")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        finally:
            os.close(handle)


def _line(row: Row, columns: list[str]) -> str:
    return ",".join(format_number(row.get(name, math.nan)) for name in columns) + "\n"
