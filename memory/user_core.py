"""A memory core of the user, `module:Class`: imported, built, and tried out before anything is trained.

The class is called as `Class(input_size, **kwargs)` and must give a module with the interface of
`memory.core.MemoryCore`, most easily by deriving from it. Every mistake is one line that says what was expected.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from envs.errors import UserError, first_line, nearest
from envs.user_modules import import_user_module
from memory.core import AddressRecord, CoreOutput, MemoryCore, MemoryRecord
from memory.hard.straight_through import gumbel_noise
from memory.mnm.reference import MNMCore

INTERFACE = (
    "output_size", "writes", "addresses", "noise_shape", "initial_state", "step", "unroll", "set_progress",
    "parameters_changed",
)  # fmt: skip
"""What the toolkit uses of a core."""
STEPS, BATCH = 4, 2
"""Size of the segment on which a core is tried."""
TOLERANCE = 1e-3
"""Of the largest feature: by how much `unroll` may differ from repeated `step` in float32."""


def make_user_core(asked: str, kwargs: Mapping[str, Any], input_size: int) -> MemoryCore:
    """The core `asked` (module:Class) for inputs [.., input_size], tried out; raises UserError."""
    kind = _find(asked)
    try:
        parameters = list(inspect.signature(kind).parameters.values())
        inspect.signature(kind).bind(input_size, **kwargs)
    except TypeError as error:
        taken = ", ".join(str(p) for p in parameters[1:]) or "none"
        raise UserError(
            f"{asked} refuses --core-kwargs {dict(kwargs)}: {error}; it takes {taken}, after the size of its input"
        ) from None
    core = _attempt(
        asked, f"could not be built with --core-kwargs {dict(kwargs)}", kind, input_size, **kwargs
    )
    if not isinstance(core, nn.Module):
        _refuse(
            asked, f"gives {type(core).__name__}, which is no torch module; derive it from memory.MemoryCore"
        )
    for name in INTERFACE:
        if not hasattr(core, name):
            _refuse(asked, f"is not a memory core: it has no {name}; derive it from memory.MemoryCore")
    was_training = core.training
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        _try_out(asked, cast(MemoryCore, core.eval()), input_size)
    return cast(MemoryCore, core.train(was_training))


def _find(asked: str) -> Callable[..., Any]:
    """The class `module:Class`."""
    module_name, _, name = asked.rpartition(":")
    if not module_name or not name:
        raise UserError(f"--core {asked!r}: write module:Class, such as my_module:MyCore")
    module = import_user_module(module_name, asked)
    found = getattr(module, name, None)
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        likely = nearest(name, classes)
        hint = f"; did you mean {likely}?" if likely else ""
        raise UserError(f"module {module_name!r} has no class {name!r}{hint}")
    if inspect.isclass(found) and not issubclass(found, nn.Module):
        _refuse(asked, "is not a memory core: it is no torch module; derive it from memory.MemoryCore")
    return cast(Callable[..., Any], found)


def _try_out(asked: str, core: MemoryCore, input_size: int) -> None:
    """Refuse a core whose state, outputs or records are not as promised, or whose unroll is not repeated step."""
    xs = torch.randn(STEPS, BATCH, input_size)
    is_first = torch.zeros(STEPS, BATCH, dtype=torch.bool)
    is_first[STEPS // 2, 0] = True
    noise = None if core.noise_shape is None else gumbel_noise((STEPS, BATCH, *core.noise_shape))
    state = _attempt(asked, f"failed in initial_state({BATCH})", core.initial_state, BATCH)
    _check_state(asked, state, "initial_state")
    if any(x.any() for x in state):
        _refuse(asked, "has an initial_state that is not all zeros, which is what a reset puts there")
    noise_t = None if noise is None else noise[0]
    stepped = _attempt(
        asked,
        f"failed in step on inputs {list(xs[0].shape)}",
        core.step,
        xs[0],
        state,
        record=True,
        noise=noise_t,
    )
    new = _check_output(asked, core, stepped, (BATCH,), "step")
    for before, after in zip(state, new, strict=True):
        if (before.shape, before.dtype) != (after.shape, after.dtype):
            _refuse(
                asked,
                f"changes its state in step from {list(before.shape)} {before.dtype} "
                f"to {list(after.shape)} {after.dtype}",
            )
    _check_record(asked, core, stepped[0].record)
    unrolled = _attempt(
        asked, f"failed in unroll on inputs {list(xs.shape)}", core.unroll, xs, state, is_first, noise=noise
    )
    last = _check_output(asked, core, unrolled, (STEPS, BATCH), "unroll")
    by_steps, last_by_steps = MemoryCore.unroll(core, xs, state, is_first, noise)
    for one, other in zip((unrolled[0].features, *last), (by_steps.features, *last_by_steps), strict=True):
        largest = float(other.abs().max()) if other.numel() else 0.0
        if not torch.allclose(one, other, rtol=0.0, atol=TOLERANCE * max(1.0, largest)):
            _refuse(asked, "does not compute the same in unroll as in repeated reset_state and step")


def _check_output(asked: str, core: MemoryCore, found: Any, lead: tuple[int, ...], where: str) -> Any:
    """The state of a pair (CoreOutput, state) with leading axes `lead`."""
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], CoreOutput)):
        _refuse(asked, f"must return (CoreOutput, state) from {where}, not {type(found).__name__}")
    output, state = found
    wanted = {"features": (*lead, core.output_size), "meta_loss": lead, "write_error": lead}
    for name, shape in wanted.items():
        tensor = getattr(output, name)
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            given = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            _refuse(asked, f"must return {name} {list(shape)} from {where}, not {given}")
        if not tensor.isfinite().all():
            _refuse(asked, f"returns {name} from {where} that are not finite")
    _check_state(asked, state, where)
    return state


def _check_state(asked: str, state: Any, where: str) -> None:
    """Refuse what is no named tuple of tensors [BATCH, ...]."""
    if not (isinstance(state, tuple) and hasattr(state, "_fields")):
        _refuse(asked, f"must give a named tuple of tensors as state, not {type(state).__name__}, in {where}")
    for name, part in zip(state._fields, state, strict=True):
        if not isinstance(part, Tensor):
            _refuse(asked, f"has the state {name}, which is no tensor but {type(part).__name__}, in {where}")
        if not part.dim() or len(part) != BATCH:
            _refuse(asked, f"has the state {name} {list(part.shape)} for a batch of {BATCH}, in {where}")


def _check_record(asked: str, core: MemoryCore, record: Any) -> None:
    """Refuse a core that promises recalls and does not give what they need."""
    if core.writes and not isinstance(core, MNMCore):
        _refuse(asked, "sets writes = True, which takes the weights and the writes of a memory.MNMCore")
    wanted = MemoryRecord if core.writes else AddressRecord if core.addresses else type(None)
    if not isinstance(record, wanted):
        _refuse(asked, f"must return a record of {wanted.__name__} from step, not {type(record).__name__}")


def _attempt(asked: str, failure: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a call into the user's code, or one line that names the place in it."""
    try:
        return function(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        file = sys.modules[asked.rpartition(":")[0]].__file__
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        _refuse(asked, f"{failure}: {type(error).__name__}: {first_line(error)}{place}", error)


def _refuse(asked: str, reason: str, cause: Exception | None = None) -> NoReturn:
    raise UserError(f"the core {asked} {reason}") from cause
