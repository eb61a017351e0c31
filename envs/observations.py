"""Observations of every Gymnasium space as one flat dict of arrays, checked against the space and copied.

A nested space becomes one entry per leaf; the key is the path to it, joined by "/" ("robot/pos"), and "obs" for
a space without keys:

    Box, MultiBinary           as they are
    Discrete, MultiDiscrete    counted from 0, whatever their start
    Text                       `Tokens`: one id per character, 0 = padding up to max_length
    Sequence                   its elements padded to a fixed length, and "KEY/length"
    Tuple, Dict                their parts, nested as deep as they like
    Graph, OneOf               refused by name

`Leaf.encode` converts what an environment returned (a copy, of the declared type and shape) or raises ValueError
saying what came and what was expected; harmless conversions (float64 to float32, 2.0 to 2) are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import UserError

OBSERVATION = "obs"
"""Key of an observation that has none."""
ACTION_MASK = "action_mask"
"""Key under which the legal actions travel with the observation."""
SEQUENCE_LENGTH = 32
"""Elements to which a Sequence is padded unless the environment option "sequence_length" says otherwise."""
SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, Text, Sequence, or Tuple and Dict of them"

Array = NDArray[Any]


class Tokens(spaces.MultiDiscrete):
    """Ids of words or characters in their order, 0 = padding."""


class ActionMask(spaces.MultiBinary):
    """1 for every legal choice: Discrete(n) has n entries, MultiDiscrete those of its components in a row."""


class Leaf(NamedTuple):
    """One entry of the flat observation."""

    key: str
    path: tuple[Hashable, ...]
    """Keys and positions that lead to it in the environment's own observation."""
    space: gymnasium.Space[Any]
    """What the agent is told of it."""
    encode: Callable[[Any, tuple[int, ...]], Array]
    """(value, leading shape: () or (N,)) -> array; raises ValueError."""

    def take(self, observation: Any) -> Any:
        """The part of an observation that this entry is made from."""
        for key in self.path:
            observation = observation[key]
        return observation


def leaves_of(
    space: gymnasium.Space[Any],
    env_id: str,
    sequence_length: int = SEQUENCE_LENGTH,
    taken: tuple[str, ...] = (),
) -> list[Leaf]:
    """The entries of the flat observation; no key is one of `taken`. Raises UserError for an unsupported space."""
    found = list(_walk(space, (), env_id, sequence_length))
    if not found:
        raise UserError(f"{env_id}: the observation space {space} is empty; expected {SUPPORTED}")
    used, named = set(taken), []
    for leaf in found:
        key, number = leaf.key, 2
        while key in used:
            key, number = f"{leaf.key}_{number}", number + 1
        used.add(key)
        named.append(leaf._replace(key=key))
    return named


def _walk(space: Any, path: tuple[Hashable, ...], env_id: str, length: int) -> Iterator[Leaf]:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _walk(part, (*path, key), env_id, length)
    elif isinstance(space, spaces.Tuple):
        for place, part in enumerate(space.spaces):
            yield from _walk(part, (*path, place), env_id, length)
    elif isinstance(space, spaces.Sequence):
        yield from _sequence(space, path, env_id, length)
    elif (made := _simple(space)) is not None:
        yield Leaf(_key(path), path, *made)
    else:
        where = f"observation {_key(path)!r}" if path else "the observation space"
        kind = type(space).__name__
        raise UserError(f"{env_id}: {where} is a {kind} space, which is not supported; expected {SUPPORTED}")


def _key(path: tuple[Hashable, ...]) -> str:
    return "/".join(map(str, path)) if path else OBSERVATION


def _simple(space: Any) -> tuple[gymnasium.Space[Any], Callable[[Any, tuple[int, ...]], Array]] | None:
    """What the agent is told of a space without parts, and how a value of it is encoded."""
    if isinstance(space, spaces.Box):
        return space, lambda value, lead: numbers(value, space, lead)
    if isinstance(space, Tokens):
        return space, categories(space.nvec, space.start, space)
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n)), categories(space.n, space.start, space)
    if isinstance(space, spaces.MultiDiscrete):
        counted = spaces.MultiDiscrete(space.nvec, dtype=space.dtype) if np.any(space.start) else space
        return counted, categories(space.nvec, space.start, space)
    if isinstance(space, spaces.MultiBinary):
        return space, categories(np.full(space.shape, 2), 0, space)
    if isinstance(space, spaces.Text):
        ids = {character: place + 1 for place, character in enumerate(space.character_list)}
        told = Tokens([len(ids) + 1] * space.max_length)
        return told, lambda value, lead: characters(value, ids, space.max_length, lead)
    return None


def _sequence(space: Any, path: tuple[Hashable, ...], env_id: str, length: int) -> Iterator[Leaf]:
    """Elements of a simple space, padded with 0; categories count from 1, so that 0 means "no element"."""
    made = _simple(space.feature_space)
    if made is None or isinstance(space.feature_space, spaces.Text):
        kind = type(space.feature_space).__name__
        raise UserError(
            f"{env_id}: observation {_key(path)!r} is a Sequence of {kind}, which is not supported"
        )
    element, encode = made
    told: gymnasium.Space[Any]
    if isinstance(element, spaces.Box):
        zero = np.zeros((), element.dtype)
        low, high = np.minimum(element.low, zero), np.maximum(element.high, zero)
        told = spaces.Box(np.stack([low] * length), np.stack([high] * length), dtype=element.dtype)
        shift = 0
    else:
        counts = _counts(element)
        kind_of = Tokens if np.ndim(counts) == 0 else spaces.MultiDiscrete
        told, shift = kind_of(np.stack([counts + 1] * length)), 1

    def entries(value: Any) -> list[Any]:
        rows = list(value)
        if len(rows) > length:
            raise ValueError(
                f"got a sequence of {len(rows)} elements, expected at most {length} "
                "(environment option sequence_length)"
            )
        return rows

    def padded(value: Any, lead: tuple[int, ...]) -> Array:
        _single(lead, "Sequence")
        out = np.zeros(told.shape or (), told.dtype)
        for place, row in enumerate(entries(value)):
            out[place] = encode(row, ()) + np.asarray(shift, told.dtype)
        return out

    yield Leaf(_key(path), path, told, padded)
    yield Leaf(
        f"{_key(path)}/length",
        path,
        spaces.Discrete(length + 1),
        lambda value, lead: np.asarray(len(entries(value)), dtype=np.int64),
    )


def _counts(space: Any) -> Array:
    """Categories of every component of a discrete space."""
    if isinstance(space, spaces.MultiBinary):
        return np.full(space.shape, 2)
    return np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec)


def _single(lead: tuple[int, ...], kind: str) -> None:
    if lead:
        raise ValueError(f"{kind} observations need the sync or async backend")


def numbers(value: Any, space: spaces.Box, lead: tuple[int, ...]) -> Array:
    """A value of a Box: numbers of its shape, finite, and whole where the type is."""
    given = _as_array(value, space)
    if given.dtype.kind not in "biuf":
        raise ValueError(f"got {describe(value)}, expected numbers of {space}")
    if given.shape != (*lead, *space.shape):
        raise ValueError(f"got shape {list(given.shape)}, expected {[*lead, *space.shape]}")
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        raise ValueError(f"got {first_not_finite(given)}, expected finite numbers")
    if given.dtype == space.dtype:
        return given.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        taken = given.astype(space.dtype)
    if np.issubdtype(space.dtype, np.floating):
        if not np.isfinite(taken).all():
            raise ValueError(
                f"got {given.flat[int(np.argmin(np.isfinite(taken)))]:g}, too large for {space.dtype}"
            )
    elif not np.array_equal(taken, given):
        wrong = given.flat[int(np.argmax(taken != given))]
        raise ValueError(f"got {wrong}, expected a whole number that {space.dtype} holds")
    return taken


def categories(counts: Any, starts: Any, space: Any) -> Callable[[Any, tuple[int, ...]], Array]:
    """Encodes whole numbers start .. start + count - 1 of a space, counted from 0. It runs at every step of every
    environment, so it is written for few NumPy calls."""
    starts = np.asarray(starts)
    shift, own = bool(np.any(starts)), np.shape(counts)
    # A negative number read without its sign is huge, so one comparison checks both ends.
    limit = np.asarray(counts).astype(np.uint64)
    dtype = np.dtype(np.int64 if space.dtype is None else space.dtype)

    def encode(value: Any, lead: tuple[int, ...]) -> Array:
        given = _as_array(value, space)
        shape = (*lead, *own)
        if given.shape != shape and given.size == 1 and not shape:
            given = given.reshape(())
        if given.dtype.kind not in "biuf" or given.shape != shape:
            raise ValueError(f"got {describe(value)}, expected a value of {space}")
        taken = given.astype(np.int64)
        whole = given.dtype.kind != "f" or np.array_equal(taken, given)
        if shift:
            taken = np.asarray(taken - starts)
        if not whole or np.count_nonzero(taken.view(np.uint64) >= limit):
            raise ValueError(f"got {describe(value)}, expected a value of {space}")
        return taken if dtype == np.int64 else taken.astype(dtype)

    return encode


def characters(value: Any, ids: dict[str, int], length: int, lead: tuple[int, ...]) -> Array:
    """A text as one id per character."""
    _single(lead, "Text")
    if not isinstance(value, str):
        raise ValueError(f"got {describe(value)}, expected a text")
    unknown = [character for character in value if character not in ids]
    if len(value) > length or unknown:
        why = f"the character {unknown[0]!r}" if unknown else f"{len(value)} characters"
        raise ValueError(
            f"got a text with {why}, expected at most {length} characters of the space's own set"
        )
    out = np.zeros(length, dtype=np.int64)
    out[: len(value)] = [ids[character] for character in value]
    return out


def space_form(space: gymnasium.Space[Any]) -> str:
    """What two spaces must share for one agent: kinds, shapes, types and counts, but not bounds."""
    if isinstance(space, spaces.Dict):
        return "{" + ", ".join(f"{key}: {space_form(part)}" for key, part in sorted(space.items())) + "}"
    if isinstance(space, spaces.Tuple):
        return "(" + ", ".join(map(space_form, space.spaces)) + ")"
    kind, counts = type(space).__name__, ""
    if isinstance(space, spaces.Discrete):
        return f"{kind}({space.n})"
    if isinstance(space, spaces.MultiDiscrete):
        counts = " of " + "x".join(map(str, np.unique(space.nvec)))
    return f"{kind}{list(space.shape or ())} {space.dtype}{counts}"


def out_of_bounds(value: Array, space: Any) -> bool:
    """Whether a Box entry leaves its declared bounds; harmless, but worth a line."""
    return isinstance(space, spaces.Box) and bool(np.any(value < space.low) or np.any(value > space.high))


def has_bounds_of_its_type(space: Any) -> bool:
    """Whether no value of a Box's type can leave its bounds, as with bytes from 0 to 255."""
    if not isinstance(space, spaces.Box) or space.dtype.kind not in "iu":
        return False
    limits = np.iinfo(space.dtype)
    return bool(np.all(space.low == limits.min) and np.all(space.high == limits.max))


def first_not_finite(values: Array) -> str:
    """The first entry that is not finite, with its place: "nan at [2]"."""
    place = np.argwhere(~np.isfinite(values))[0].tolist()
    return f"{values[tuple(place)]}" + (f" at {place}" if place else "")


def describe(value: Any) -> str:
    """A value in a few words, for an error line."""
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"an array of {value.dtype}, shape {list(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}..."


def _as_array(value: Any, space: Any) -> Array:
    try:
        return np.asarray(value)
    except (ValueError, TypeError):
        raise ValueError(f"got {describe(value)}, expected a value of {space}") from None
