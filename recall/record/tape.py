"""The tape: everything that one episode wrote to and read from the neural memory, small enough to keep.

Both write rules change layer l of the memory by a matrix of rank at most H,

    W_{l,t} = W_{l,t-1} - U_{l,t}^T Z_{l,t}      Z_l: [H, d_{l-1}] inputs of the layer,  U_l: [H, d_l] steps,

so the factors U and Z of every step, together with the memory at the start, W_{l,0}, give back every W_t. All
recall scores are functions of the tape alone, computed by code that shares nothing with the training code.

Dimension letters: T steps, H heads, d key and value size (d_0 = d_3 = d), u hidden width (d_1 = d_2 = u), A
actions. Time runs first in all arrays. Row t is the step in which the agent received observation t, wrote,
read, and acted; its write precedes its read. One tape is one episode, a reset closes it. A core without write
memory makes a tape whose memory arrays are None: it still tells what was seen and done. The reads of a hard
memory stand in `Tape.addresses` instead: it reads whole slots, so there is nothing to attribute. The slot that a head
chose is known, and with it the step that wrote it; every other slot had no effect on the value read at this step.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from agents.distributions import ActionDistribution, Categorical, Vector, VectorActions
from agents.files import atomic_file, refusing
from envs.errors import UserError

FORMAT_VERSION = 1
LAYERS = 3
DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, MemoryError, struct.error)
"""What a damaged archive leads to, besides the usual errors."""

Array = NDArray[Any]


class WriteRule(NamedTuple):
    """What redoing a write needs beside its key, its target value and its rate; see `recall/scores/reapplied.py`."""

    name: str
    """"local" for MNM-p, "gradient" for MNM-g."""
    feedback_weight: Array | None = None
    """[3 d, d] of the map from a target value to the targets of all layers; None for MNM-g."""
    feedback_bias: Array | None = None
    """[3 d] of the same map."""


@dataclass(frozen=True)
class MemoryTape:
    """The memory's part of a tape, in the floating-point type of the run (never half precision)."""

    initial_weights: tuple[Array, ...]
    """W_{l,0} for l = 1, 2, 3, each [d_l, d_{l-1}]: the memory before the write of row 0."""
    write_inputs: tuple[Array, ...]
    """Z_l, each [T, H, d_{l-1}]; the first, Z_1, holds the write keys."""
    write_steps: tuple[Array, ...]
    """U_l, each [T, H, d_l], with the update rate beta and the scale of the write rule inside."""
    target_value: Array
    """[T, H, d] the values that the write keys were to return."""
    beta: Array
    """[T] update rate of the write, between 0 and 1; 0 writes nothing."""
    read_key: Array
    """[T, H, d] read keys."""
    read_hidden: tuple[Array, ...]
    """z_1, z_2 of the read, each [T, H, u]: tanh activations under the updated weights."""
    value_read: Array
    """[T, d] the value read, averaged over the read heads: what the controller received."""
    rule: WriteRule | None = None
    """How a write follows from its key, target value and rate; None on tapes that were recorded without."""


ADDRESS_PREFIX = "address/"
"""In front of the names of these arrays in a tape's file."""


@dataclass(frozen=True)
class AddressTape:
    """What the read heads did in one episode; of N slots, slot i is the one written N - i steps ago, slot N none."""

    slot: Array
    """[T, H] int64, the slot that each head chose."""
    tags: Array
    """[T, N] int64, the step of the episode in which each slot was written; -1 for an empty slot."""
    logits: Array
    """[T, H, N + 1] float32, the address logits without noise; -inf for an empty slot."""
    noise: Array
    """[T, H, N + 1] float32, what was added to them: slot = argmax(logits + noise); 0 under the greedy policy."""

    @staticmethod
    def of_rows(slot: Array, tags: Array, logits: Array, noise: Array) -> AddressTape:
        """From the stacked parts of `memory.AddressRecord`."""
        return AddressTape(
            slot.astype(np.int64), tags.astype(np.int64), logits.astype(np.float32), noise.astype(np.float32)
        )

    @property
    def read_step(self) -> Array:
        """[T, H] int64, the step of the episode that wrote what each head read; -1 for nothing (null slot)."""
        empty = np.full((len(self.tags), 1), -1)
        found: Array = np.take_along_axis(np.concatenate([self.tags, empty], axis=1), self.slot, axis=1)
        return found

    @property
    def probability(self) -> Array:
        """[T, H, N + 1], softmax of the logits: how likely each address is when it is drawn."""
        wide = self.logits.astype(np.float64)
        odds = np.exp(wide - wide.max(axis=-1, keepdims=True))
        found: Array = odds / odds.sum(axis=-1, keepdims=True)
        return found

    def arrays(self) -> dict[str, Array]:
        """The arrays under the names that they have in a tape's file."""
        return {ADDRESS_PREFIX + field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def from_arrays(arrays: Mapping[str, Array]) -> AddressTape:
        """What `arrays` gave."""
        return AddressTape(
            **{field.name: arrays[ADDRESS_PREFIX + field.name] for field in fields(AddressTape)}
        )


@dataclass(frozen=True)
class Tape:
    """One episode of one agent. See the head of this file for the order of a row and the dimension letters."""

    memory: MemoryTape | None
    """What was written and read; None for a core without write memory."""
    observation: dict[str, Array]
    """Name -> [T, ...] observation as the agent received it."""
    is_first: Array
    """[T] bool, true where the observation opens an episode: row 0 at most."""
    previous_action: Array
    """[T] int64, the action that led to the observation; -1 where there was none. A vector: float32 [T, W], 0."""
    previous_reward: Array
    """[T] float32, the reward (unscaled) that came with the observation."""
    action: Array
    """[T] int64, the action taken after reading; float32 [T, W] where it is a vector."""
    reward: Array
    """[T] float32, the reward (unscaled) of that action."""
    logits: Array
    """[T, A] float32: what describes the policy (`agents.distributions`), the logits of the actions."""
    value: Array
    """[T] float32, the critic's value of the observation."""
    agent_cell: Array
    """[T, 2] int64 (row, column) of the agent; -1 where unknown. For display only, never seen by the agent.
    """
    goal_cell: Array
    """[T, 2] int64 (row, column) of the goal; -1 where unknown. For display only."""
    seed: int
    """The seed with which the environment was reset."""
    core: str
    """Name of the memory core, for example "mnm-p"."""
    start_step: int = 0
    """Episode step of row 0. Above 0, everything older is "before recording": unknown, not zero."""
    addresses: AddressTape | None = None
    """What the heads of a hard memory read; None for every other core."""
    counts: tuple[int, ...] | None = None
    """Where an action is a vector: the choices of each component, 0 for a real number."""
    noise: Array | None = None
    """[T, ...] what the core drew its own choices with, for a core with chance that has no addresses; else None."""

    @property
    def policy(self) -> ActionDistribution:
        """The policy of every row, in float64."""
        parameters = torch.from_numpy(self.logits.astype(np.float64))
        return (
            Categorical(parameters) if self.counts is None else Vector(parameters, VectorActions(self.counts))
        )

    @property
    def probability(self) -> Array:
        """[T] the probability of the action taken (`ActionDistribution.probability`)."""
        found: Array = self.policy.probability(torch.from_numpy(self.action)).numpy()
        return found

    @property
    def likelihood(self) -> str:
        """What `probability` is: of a real number the density, over that of the mean."""
        return "density" if self.counts is not None and 0 in self.counts else "probability"

    @property
    def steps(self) -> int:
        """T, the number of rows."""
        return len(self.action)

    @property
    def choices(self) -> Array | None:
        """[T, ...] the noise that a core with chance drew with under the sampled policy; None: it was greedy."""
        if self.addresses is None:
            return self.noise
        return self.addresses.noise if self.addresses.noise.any() else None

    def written(self) -> MemoryTape:
        """The memory's part, or a plain error for a tape that has none."""
        if self.memory is None:
            raise UserError(
                f"the core {self.core!r} has no write memory, so its tape holds nothing to recall"
            )
        return self.memory

    def save(self, path: str | Path) -> None:
        """Write the tape as a compressed .npz that is read without pickle, by NumPy alone."""
        arrays: dict[str, Array] = {f"observation/{name}": array for name, array in self.observation.items()}
        arrays |= {name: getattr(self, name) for name in ROW_FIELDS}
        if self.memory is not None:
            for name in _MEMORY_ARRAYS:
                value = getattr(self.memory, name)
                parts = enumerate(value, start=1) if isinstance(value, tuple) else [("", value)]
                arrays |= {f"memory/{name}{layer}": part for layer, part in parts}
            rule = self.memory.rule
            if rule is not None and rule.feedback_weight is not None and rule.feedback_bias is not None:
                arrays["memory/feedback_weight"] = rule.feedback_weight
                arrays["memory/feedback_bias"] = rule.feedback_bias
        if self.addresses is not None:
            arrays |= self.addresses.arrays()
        if self.noise is not None:
            arrays["noise"] = self.noise
        header = {
            "format": FORMAT_VERSION,
            "seed": self.seed,
            "core": self.core,
            "start_step": self.start_step,
            "memory": self.memory is not None,
            "addresses": self.addresses is not None,
            "rule": self.memory.rule.name if self.memory is not None and self.memory.rule else None,
        }
        if self.counts is not None:
            header["counts"] = list(self.counts)
        arrays["header"] = np.array(json.dumps(header))
        with atomic_file(path) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @staticmethod
    def load(path: str | Path) -> Tape:
        """Read what `save` wrote; anything else is refused in one line."""
        try:
            with np.load(Path(path), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            header = json.loads(str(arrays["header"]))
        except FileNotFoundError:
            raise UserError(f"no tape at {path}") from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, *DAMAGED) as error:
            raise UserError(f"{path} is not a tape, or it is damaged ({error})") from error
        with refusing(path):
            return Tape._from(arrays, header, path)

    @staticmethod
    def _from(arrays: dict[str, Array], header: dict[str, Any], path: str | Path) -> Tape:
        if header["format"] != FORMAT_VERSION:
            raise UserError(
                f"{path} has tape format {header['format']}; this version reads format {FORMAT_VERSION}"
            )
        for name in ROW_FIELDS:
            if arrays[name].dtype.kind not in "biuf" or len(arrays[name]) != len(arrays["action"]):
                raise UserError(f"{path} is damaged: {name} has {arrays[name].dtype} {arrays[name].shape}")
        if not (isinstance(header["seed"], int) and isinstance(header["core"], str)):
            raise UserError(f"{path} is damaged: seed {header['seed']!r:.40}, core {header['core']!r:.40}")
        return Tape(
            memory=_memory_from(arrays, header.get("rule")) if header["memory"] else None,
            observation={
                name.removeprefix("observation/"): array
                for name, array in arrays.items()
                if name.startswith("observation/")
            },
            **{name: arrays[name] for name in ROW_FIELDS},
            seed=header["seed"],
            core=header["core"],
            start_step=header["start_step"],
            addresses=AddressTape.from_arrays(arrays) if header.get("addresses") else None,
            counts=tuple(header["counts"]) if "counts" in header else None,
            noise=arrays.get("noise"),
        )


ROW_FIELDS: dict[str, type] = {
    "is_first": np.bool_,
    "previous_action": np.int64,
    "previous_reward": np.float32,
    "action": np.int64,
    "reward": np.float32,
    "logits": np.float32,
    "value": np.float32,
    "agent_cell": np.int64,
    "goal_cell": np.int64,
}
"""The arrays of a tape that every core fills, one entry per step, and their types."""


_MEMORY_ARRAYS = tuple(field.name for field in fields(MemoryTape) if field.name != "rule")


def _memory_from(arrays: Mapping[str, Array], rule: str | None) -> MemoryTape:
    def layered(name: str, count: int = LAYERS) -> tuple[Array, ...]:
        return tuple(arrays[f"memory/{name}{layer}"] for layer in range(1, count + 1))

    return MemoryTape(
        initial_weights=layered("initial_weights"),
        write_inputs=layered("write_inputs"),
        write_steps=layered("write_steps"),
        target_value=arrays["memory/target_value"],
        beta=arrays["memory/beta"],
        read_key=arrays["memory/read_key"],
        read_hidden=layered("read_hidden", LAYERS - 1),
        value_read=arrays["memory/value_read"],
        rule=None
        if rule is None
        else WriteRule(rule, arrays.get("memory/feedback_weight"), arrays.get("memory/feedback_bias")),
    )


def walk_weights(tape: Tape) -> Iterator[tuple[Array, ...]]:
    """W_{l,t} of every layer for t = 0, 1, ..., T-1, each after the write and before the read of row t.

        W_{l,t} = (W_{l,0} + D_{l,t-1}) - U_{l,t}^T Z_{l,t},   D_{l,t} = W_{l,t} - W_{l,0},   D_{l,-1} = 0

    In the tape's own floating-point type and in the order of the cores when they act step by step: between
    steps they keep the change D, not W. What may differ is the last bit of a product that a matrix library
    fuses with its sum, or sums over the H heads in another order: below 1e-6 in float32 and 1e-14 in float64,
    relative to the weights. When recording started in mid-episode, the memory of that moment is the start;
    same bounds.
    """
    memory = tape.written()
    change = [np.zeros_like(start) for start in memory.initial_weights]
    for t in range(tape.steps):
        weights = tuple(
            (start + delta) - steps[t].T @ inputs[t]
            for start, delta, steps, inputs in zip(
                memory.initial_weights, change, memory.write_steps, memory.write_inputs, strict=True
            )
        )
        change = [full - start for full, start in zip(weights, memory.initial_weights, strict=True)]
        yield weights


def weights_at(tape: Tape, t: int) -> tuple[Array, ...]:
    """The full memory weights W_{l,t}, l = 1..3, from which row t read. How exact: see `walk_weights`."""
    if not 0 <= t < tape.steps:
        raise IndexError(f"row {t} is not on the tape, which has rows 0 to {tape.steps - 1}")
    for row, weights in enumerate(walk_weights(tape)):
        if row == t:
            return weights
    raise AssertionError("unreachable: the row was checked above")
