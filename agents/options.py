"""Frozen dataclasses as command lines: one generic parser, one line per error, nearest valid names.

A field made by `option(default, "what it is")` becomes `--field-name`, with its type, choices (from `Literal`)
and default in --help, under the heading `TITLE` of the class that declares it. A bool becomes `--name / --no-name`,
a tuple an option that may be repeated; `None` is allowed where the type says so. The standard library's parser is
used because its errors can be cut down to ONE clear line.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import io
import json
import math
import os
import select
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from agents.files import refused_by_system
from agents.hints import hint
from envs.errors import UserError, first_line, nearest
from memory.options import option as option

ConfigT = TypeVar("ConfigT")


class OneLineParser(argparse.ArgumentParser):
    """Reports a bad command line as one line with the nearest valid option, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            names = [name for action in self._actions for name in action.option_strings]
            name = unknown.split(" ")[0].split("=")[0]
            message = f"unknown option {name}{suggestion(name, names)}"
            if not name.startswith("-"):
                message = f"{name!r} belongs to no option; switches (--name / --no-name) take no value"
        raise UserError(message)


def parse(defaults: ConfigT, argv: Sequence[str], description: str, positional: str | None = None) -> ConfigT:
    """A copy of the dataclass instance `defaults` with the options given in `argv` replaced.

    `positional` names the field that is given without an option name. Raises UserError.
    """
    config: ConfigT = parse_parts((defaults,), argv, description, positional)[0]
    return config


def parse_parts(
    parts: Sequence[Any], argv: Sequence[str], description: str, positional: str | None = None
) -> list[Any]:
    """`parse` for a command whose options are the fields of several dataclass instances together."""
    parser = OneLineParser(
        description=hint(description),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    hints: dict[str, Any] = {}
    headings: dict[str, argparse._ActionsContainer] = {"": parser}
    for part in parts:
        hints.update(get_type_hints(type(part)))
        for title, fields in by_heading(type(part)).items():
            if title not in headings:
                headings[title] = parser.add_argument_group(title)
            for field in fields:
                default = getattr(part, field.name)
                _add_option(headings[title], field, hints[field.name], default, field.name == positional)
    for word in argv:
        # argparse drops a value "--" and leaves none at all.
        if word.startswith("--") and word.endswith("=--"):
            raise UserError(f"{word.removesuffix('=--')} needs a value, got '--'")
    values = vars(parser.parse_args(list(argv)))
    for name, value in values.items():
        if isinstance(value, list):  # an option that may be repeated
            values[name] = () if value == ["none"] else tuple(value)
    for name, value in values.items():
        choices = _choices(hints[name])
        if choices and value is not None and value not in choices:
            raise UserError(
                f"unknown {name.replace('_', ' ')} {value!r}{suggestion(str(value), choices)}; "
                f"valid: {', '.join(choices)}"
            )
    return [type(part)(**{f.name: values[f.name] for f in dataclasses.fields(part)}) for part in parts]


def own_fields_first(kind: type[Any]) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass, those that it declares itself before the inherited ones."""
    fields = dataclasses.fields(kind)
    own = inspect.get_annotations(kind)
    return [f for f in fields if f.name in own] + [f for f in fields if f.name not in own]


def check_types(kind: type[Any], values: dict[str, Any]) -> None:
    """Refuse stored values of options that are not of the type that the dataclass `kind` declares."""
    for name, hint_ in get_type_hints(kind).items():
        if name not in values or (values[name] is None and type(None) in get_args(hint_)):
            continue
        value, inner, choices = values[name], _without_none(hint_), _choices(hint_)
        expected = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(inner)
        fits = isinstance(value, (int, float) if inner is float else inner) if expected else True
        if inner in (int, float) and isinstance(value, bool):
            fits = False
        if get_origin(inner) is tuple:
            expected = "a list of texts"
            fits = isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
        if choices and value not in choices:
            fits, expected = False, f"one of {', '.join(choices)}"
        if not fits:
            raise UserError(f"{name} must be {expected}, got {value!r:.60}")


ADVANCED = "advanced (details and ablations)"


def by_heading(kind: type[Any]) -> dict[str, list[dataclasses.Field[Any]]]:
    """The fields of a dataclass under the headings of --help: "" for those without, advanced ones last."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    found: dict[str, list[dataclasses.Field[Any]]] = {"": []}
    for base in kind.__mro__:
        for name in [name for name in inspect.get_annotations(base) if name in fields]:
            field = fields.pop(name)
            title = ADVANCED if field.metadata.get("advanced") else base.__dict__.get("TITLE", "")
            found.setdefault(title, []).append(field)
    last = found.pop(ADVANCED, [])
    return {title: group for title, group in (*found.items(), (ADVANCED, last)) if group}


MOST_WHOLE, MOST_REAL = 2**31 - 1, 1e6
"""Bounds of options that declare none of their own (`option(..., most=N)`)."""


def check_numbers(config: Any) -> None:
    """Refuse a configuration with a number that is not finite (nan passes every comparison) or absurdly large."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name} must be a finite number, got {value}")
        most = field.metadata.get("most", MOST_REAL if isinstance(value, float) else MOST_WHOLE)
        if abs(value) > most:
            bound, shown = (
                f"{x:,}" if isinstance(x, int) and x < 10**15 else f"{x:g}" for x in (most, value)
            )
            raise UserError(f"{name} must be at most {bound}, got {shown}")


def check_at_least(config: Any, least: int, *names: str) -> None:
    """Refuse a configuration in which one of the options `names` is smaller than `least`."""
    for name in names:
        if getattr(config, name) < least:
            raise UserError(
                f"--{name.replace('_', '-')} must be at least {least}, got {getattr(config, name)}"
            )


def check_bounds(config: Any) -> None:
    """Refuse values outside the bounds that options declare (`at_least`, `positive`)."""
    for field in dataclasses.fields(config):
        value, least = getattr(config, field.name), field.metadata.get("at_least")
        if least is not None and value is not None:
            check_at_least(config, least, field.name)
        if field.metadata.get("positive") and not (value > 0.0 and math.isfinite(value)):
            raise UserError(f"--{field.name.replace('_', '-')} must be positive and finite, got {value}")


def json_object(name: str, text: str, example: str = '{"side": 11}') -> dict[str, Any]:
    """The value of an option that holds a JSON object; raises UserError if it does not."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--{name} is not JSON ({error}): {text!r}") from None
    if not isinstance(found, dict):
        raise UserError(f"--{name} must be a JSON object such as {example}, got {text!r}")
    return found


def suggestion(name: str, choices: Iterable[str]) -> str:
    """ " (did you mean ...?)" with the choices most like `name`, or nothing."""
    names = nearest(name, choices)
    return f" (did you mean {names}?)" if names else ""


def given(argv: Sequence[str], name: str) -> str | None:
    """The value of `--name VALUE` or `--name=VALUE` in argv, before the full parse; None if absent."""
    for position, word in enumerate(argv):
        if word == f"--{name}" and position + 1 < len(argv):
            return argv[position + 1]
        if word.startswith(f"--{name}="):
            return word.split("=", 1)[1]
    return None


def run_command(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a command and exit with its code; a UserError becomes one line on stderr and the code it carries."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of another encoding shows a question mark
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: out of memory: {first_line(error):.200}", file=sys.stderr)
        code = 1
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        code = 141
    except OSError as error:
        if refused_by_system(error) is None:
            raise
        with suppress(OSError):
            print(f"error: the output cannot be written: {first_line(error)}", file=sys.stderr, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
    sys.exit(code)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was asked for that is not there, on the host or on a GPU."""
    torch = sys.modules.get("torch")  # where it was never loaded, its errors are not raised
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "allocate memory" in str(error)


def _reader_has_left() -> bool:
    """Whether nobody reads our output any more (`| head`); what is left of it then goes nowhere."""
    output = select.poll()
    output.register(sys.stdout, 0)
    if not output.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _add_option(
    parser: argparse._ActionsContainer,
    field: dataclasses.Field[Any],
    hint: Any,
    default: Any,
    positional: bool,
) -> None:
    text = field.metadata["help"].replace("%", "%%")
    if positional:
        if field.metadata.get("optional"):
            parser.add_argument(field.name, metavar=field.name.upper(), help=text, nargs="?", default=default)
        else:
            parser.add_argument(field.name, metavar=field.name.upper(), help=text)
        return
    flag = "--" + field.name.replace("_", "-")
    inner = _without_none(hint)
    shown = f"{text} (default: {default})"
    if inner is bool:
        action = "store_true" if field.metadata.get("switch") else argparse.BooleanOptionalAction
        parser.add_argument(flag, action=action, default=default, help=shown)
        return
    if get_origin(inner) is tuple:
        shown = f"{text} (default: {' '.join(default) or 'none'})"
        parser.add_argument(
            flag, action=_Repeated, default=default, metavar=field.metadata.get("metavar"), help=shown
        )
        return
    choices = _choices(hint)
    metavar = "{" + ",".join(choices) + "}" if choices else field.metadata.get("metavar", _metavar(inner))
    parser.add_argument(flag, type=_converter(inner), default=default, metavar=metavar, help=shown)


class _Repeated(argparse.Action):
    """Collects the values of an option that may be repeated; the first one replaces the default."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        found = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*found, values] if isinstance(found, list) else [values])


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def _choices(hint: Any) -> list[str]:
    inner = _without_none(hint)
    return [str(choice) for choice in get_args(inner)] if get_origin(inner) is Literal else []


def _converter(inner: Any) -> Callable[[str], Any]:
    if inner is int:
        return whole_number
    return float if inner is float else str


def _metavar(inner: Any) -> str:
    return {int: "N", float: "X"}.get(inner, "TEXT")


def whole_number(text: str) -> int:
    """An int, also written as 1e6 or 1_000_000."""
    try:
        return int(text.replace("_", ""))
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        number = math.nan  # no number at all is refused as a fraction is
    if not number.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, such as 100000 or 1e5")
    return int(number)
