"""Files appear whole or not at all: written beside their place, flushed to disk, then renamed.

Only regular files are replaced; a device or a pipe is written to. What the system refuses becomes one line.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import io
import json
import math
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from envs.errors import Stopped, UserError, first_line

Row = dict[str, str]
"""A row of a CSV file, by column."""


def check_writable(path: str | Path) -> Path:
    """Refuse early, before minutes of work, a path at which no file can be written."""
    path = Path(path)
    if "\0" in str(path):
        raise UserError(f"{str(path)!r} is no name of a file")
    try:
        is_directory = path.is_dir()
    except OSError as error:
        raise cannot_write(path, error) from error
    if is_directory:
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
    if path.exists() and not path.is_file():
        try:
            with path.open("wb") as file:
                yield file
        except OSError as error:
            raise cannot_write(path, error) from error
        return
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; give it the mode that an ordinary open() would have given.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            Path(temporary).unlink(missing_ok=True)
        refused = refused_by_system(error)
        if refused is not None:
            raise cannot_write(path, refused) from error
        raise


REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ENOENT, errno.EACCES, errno.EPERM,
            errno.ENAMETOOLONG, errno.ESTALE)  # fmt: skip
"""What the system says where no file can be written."""


def refused_by_system(error: BaseException | None) -> OSError | None:
    """The system's refusal to write that stands behind an error of whatever library wrote."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in REFUSALS:
            return error
        error = error.__cause__ or error.__context__
    return None


def cannot_write(path: Path, error: OSError) -> Stopped:
    """One line about a file that the system did not let us write: full or read-only disk, folder gone."""
    reason = error.strerror or first_line(error)
    kept = ""
    with contextlib.suppress(OSError):
        if error.errno == errno.ENOENT and not path.parent.exists():
            reason = f"the directory {path.parent} was deleted or renamed"
        kept = "; what stood there before is untouched" if path.is_file() else ""
    return Stopped(f"cannot write {path}: {reason}{kept}")


class WriterLock:
    """Says that this process writes in a directory; the system drops it when the process ends, however that happens.

    A record lock, which worker processes do not inherit. The file names its holder for whoever is refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def take(self) -> str | None:
        """Take the lock; returns who holds it if another process does."""
        if self._handle is not None:
            return None
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                holder = os.read(handle, 200).decode(errors="replace").strip()
                os.close(handle)
                return holder or "another process"
            # A file system without locks: nothing to be refused by.
        self._handle = handle
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        return None

    def release(self) -> None:
        """Let others write."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def remove_leftovers(folder: Path, names: Sequence[str] | None = None) -> None:
    """Delete what `atomic_file` left half-written in `folder` when its process was killed; `names`: of these files."""
    for path in folder.glob(".*.part"):
        if names is None or any(path.name.startswith(f".{name}.") for name in names):
            with contextlib.suppress(OSError):
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_file(path) as file:
        file.write(text.encode())


@contextmanager
def refusing(source: object) -> Iterator[None]:
    """Whatever a damaged or foreign content of `source` leads to in this block, as one line."""
    try:
        yield
    except UserError:
        raise
    except (
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        RuntimeError,
        OverflowError,
    ) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"{source} is damaged or of another kind: {what}") from error


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON, atomically. JSON has no infinity and no NaN: they become null, and a note says where."""
    missing: list[str] = []

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            missing.append(f"{name} was {value}")
            return None
        if isinstance(value, Mapping):
            return {key: plain(entry, f"{name}.{key}" if name else str(key)) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [plain(entry, f"{name}[{i}]") for i, entry in enumerate(value)]
        return value

    result = plain(content, "")
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        result["not_finite"] = f"null stands for: {', '.join(missing[:3])}{more}"
    write_text(Path(path), json.dumps(result, indent=2, allow_nan=False) + "\n")


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


def predecessors(path: Path) -> list[Path]:
    """The older checkpoints that stand beside `latest`, newest first."""
    found = {int(p.stem[9:]): p for p in path.parent.glob("previous-*.pt") if p.stem[9:].isdigit()}
    return [found[number] for number in sorted(found)]
