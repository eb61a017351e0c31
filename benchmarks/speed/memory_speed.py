"""The neural memory alone: frames/s of the fused and the compiled against the plain one, and memory kept.

    python -m benchmarks.speed.memory_speed                the table, benchmarks/results/memory_speed.csv and .png
    python -m benchmarks.speed.memory_speed --rounds 12    more rounds, for a busy machine
    python -m benchmarks.speed.memory_speed --open-loop    cores without read feedback, memory_open_loop.csv and docs
    python -m benchmarks.speed.memory_speed --open-loop --quick    one round; writes nothing

The implementations run in ONE process on one thread, in turn, and the best round of each counts. Without a C++
compiler the compiled one is left out. Time is CPU time of the process, so that a neighbour's share of the
machine is not counted; only the ratios are results. A frame is one time step of one sample. Memory is every
byte that autograd keeps for a backward, once.

--open-loop compares the two forms of a core without read feedback: `step by step`, controller, interaction layer and
memory inside the time loop, and `segment`, where only the scan of the memory is (memory/mnm/fast.py).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from agents.files import read_csv, write_csv
from agents.options import option, parse, run_command
from agents.run_dir import cpu_model
from benchmarks.common import RESULTS_DIR, machine_columns, require_clean_tree
from benchmarks.report.speed_page import plot_bars, put_table
from memory import CoreConfig, FusedMNMCore, MemoryCore, make_core
from memory.mnm.cpp_backend.build import KernelUnavailable, find_kernel

RESULTS = RESULTS_DIR / "memory_speed.csv"
OPEN_LOOP = RESULTS_DIR / "memory_open_loop.csv"
SHAPES = (
    (64, 4, 64, 64), (64, 1, 64, 64), (128, 1, 64, 64),
    (64, 1, 16, 64),  # a minibatch as the presets train on
    (32, 1, 64, 64), (64, 2, 64, 64), (64, 1, 4, 64), (64, 1, 256, 64), (64, 1, 64, 16), (64, 1, 64, 256),
)  # fmt: skip
"""(d, H, batch, T): the shapes of the bars, then width, heads, batch and length one at a time."""
INPUT, HIDDEN = 128, 128
OPEN_SHAPE = (64, 1, 64, 64)
OPEN_CORES = (("mnm-p", "lstm"), ("mnm-p", "gru"), ("mnm-p", "feedforward"), ("mnm-g", "lstm"))
"""(rule, controller) of --open-loop."""
ACTING_STEPS = 16
COLOURS = {"plain": "#7f7f7f", "fused": "#56b4e9", "compiled": "#d55e00"}
IMPLEMENTATIONS = tuple(COLOURS)

Key = TypeVar("Key")


@dataclass(frozen=True)
class SpeedConfig:
    """Options of the command."""

    rounds: int = option(4, "rounds of every measurement; the best one counts")
    reset_rate: float = option(0.01, "probability that a row opens an episode")
    open_loop: bool = option(
        False, "measure cores without read feedback: one call per segment against step by step", switch=True
    )
    quick: bool = option(False, "with --open-loop: one round, nothing is written", switch=True)
    summary: bool = option(False, "measure nothing: draw the committed CSV again", switch=True)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    rule: str
    d: int
    heads: int
    batch: int
    steps: int
    what: str
    plain: float
    fused: float
    compiled: float | None
    fused_ratio: float
    """Against plain; times less memory where memory is measured."""
    compiled_ratio: float | None
    peak_share: float | None = None
    """Of the fastest forward + backward, counting the operations of the maths only."""


def row(
    rule: str, size: int, heads: int, batch: int, steps: int, what: str, found: dict[str, float], less: bool
) -> Row:
    """`less`: whether less is better."""
    ratios = {name: (found["plain"] / x if less else x / found["plain"]) for name, x in found.items()}
    numbers = found["plain"], found["fused"], found.get("compiled"), ratios["fused"], ratios.get("compiled")
    return Row(rule, size, heads, batch, steps, what, *numbers)


def build(rule: str, size: int, heads: int) -> dict[str, MemoryCore]:
    torch.manual_seed(0)
    config = CoreConfig(name=rule, hidden_size=HIDDEN, memory_size=size, heads=heads)
    cores = {
        name: make_core(dataclasses.replace(config, implementation=name), INPUT)  # type: ignore[arg-type]
        for name in IMPLEMENTATIONS
        if name != "compiled" or not isinstance(find_kernel(), KernelUnavailable)
    }
    for core in cores.values():
        core.load_state_dict(cores["plain"].state_dict())
    return cores


def operations(rule: str, size: int, heads: int) -> float:
    """FLOP of one frame, forward and backward: linear maps three times, the memory by its own count."""
    linear_maps = 2.0 * (
        4 * HIDDEN * (INPUT + HIDDEN + size) + HIDDEN * (3 * heads + 1) * size + HIDDEN * (HIDDEN + size)
    )
    memory = (30 + 66 if rule == "mnm-p" else 28 + 62) * heads * size**2
    return 3.0 * linear_maps + memory


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def alternate(runs: dict[Key, Callable[[], Any]], rounds: int) -> dict[Key, float]:
    """Best CPU seconds of each, the runs taking turns."""
    for run in runs.values():
        run()
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run))
    return best


def gemm_peak(rounds: int) -> float:
    """GFLOP/s of a large float32 product, measured in the same run."""
    a = torch.randn(2048, 2048)
    return 2.0 * 2048**3 / alternate({"torch.mm": lambda: a @ a}, rounds)["torch.mm"] / 1e9


def forward(core: MemoryCore, xs: Tensor, is_first: Tensor) -> None:
    with torch.no_grad():
        core.unroll(xs, core.initial_state(xs.shape[1]), is_first)


def forward_backward(core: MemoryCore, xs: Tensor, is_first: Tensor) -> None:
    output, _ = core.unroll(xs, core.initial_state(xs.shape[1]), is_first)
    (output.features.square().mean() + output.meta_loss.mean()).backward()
    core.parameters_changed()  # they did not, but no optimizer tells


def act(core: MemoryCore, xs: Tensor) -> None:
    with torch.no_grad():
        state = core.initial_state(xs.shape[1])
        for x_t in xs[:ACTING_STEPS]:
            _, state = core.step(x_t, state)


def measure(
    rule: str, size: int, heads: int, batch: int, length: int, config: SpeedConfig, peak: float
) -> list[Row]:
    cores = build(rule, size, heads)
    xs = torch.randn(length, batch, INPUT)
    is_first = torch.rand(length, batch) < config.reset_rate
    kinds: dict[str, tuple[int, Callable[[MemoryCore], None]]] = {
        "forward": (length, lambda core: forward(core, xs, is_first)),
        "forward + backward": (length, lambda core: forward_backward(core, xs, is_first)),
        "act": (ACTING_STEPS, lambda core: act(core, xs)),
    }
    rows = []
    for what, (steps, run) in kinds.items():
        best = alternate({name: partial(run, core) for name, core in cores.items()}, config.rounds)
        rate = {name: steps * batch / taken for name, taken in best.items()}
        found = row(rule, size, heads, batch, length, what, rate, less=False)
        if "backward" in what:
            share = operations(rule, size, heads) * max(rate.values()) / 1e9 / peak
            found = dataclasses.replace(found, peak_share=share)
        rows.append(found)
    return rows


def open_cores(rule: str, controller: str, implementation: str) -> dict[str, MemoryCore]:
    """A core without read feedback in both forms."""
    torch.manual_seed(0)
    size, heads, _, _ = OPEN_SHAPE
    config = CoreConfig(
        name=rule,
        hidden_size=HIDDEN,
        memory_size=size,
        heads=heads,
        read_feedback=False,
        controller=controller,  # type: ignore[arg-type]
        implementation=implementation,  # type: ignore[arg-type]
    )
    cores = {}
    for name in ("step by step", "segment"):
        core = make_core(config, INPUT)
        assert isinstance(core, FusedMNMCore)
        core.closed = name == "step by step"
        cores[name] = core
    cores["segment"].load_state_dict(cores["step by step"].state_dict())
    return dict(cores)


def measure_open_loop(config: SpeedConfig) -> list[dict[str, Any]]:
    """Rows of --open-loop; all ways of one core take turns."""
    size, heads, batch, length = OPEN_SHAPE
    machine = machine_columns()
    xs, is_first = torch.randn(length, batch, INPUT), torch.rand(length, batch) < config.reset_rate
    kinds: dict[str, tuple[int, Callable[[MemoryCore], None]]] = {
        "act": (ACTING_STEPS, lambda core: act(core, xs)),
        "unroll": (length, lambda core: forward(core, xs, is_first)),
        "unroll + backward": (length, lambda core: forward_backward(core, xs, is_first)),
    }
    chosen = ["fused"] if isinstance(find_kernel(), KernelUnavailable) else ["fused", "compiled"]
    rows = []
    for rule, controller in OPEN_CORES:
        cores = {x: open_cores(rule, controller, x) for x in chosen}
        for what, (steps, run) in kinds.items():
            runs: dict[tuple[str, str], Callable[[], Any]] = {
                (x, form): partial(run, core) for x in chosen for form, core in cores[x].items()
            }
            best = alternate(runs, 1 if config.quick else config.rounds)
            for implementation in chosen:
                rate = {
                    form: steps * batch / best[implementation, form] for form in ("step by step", "segment")
                }
                rows.append(
                    {
                        "rule": rule, "controller": controller, "d": size, "heads": heads, "batch": batch,
                        "steps": length, "implementation": implementation, "what": what,
                        "step_by_step": round(rate["step by step"]), "segment": round(rate["segment"]),
                        "ratio": round(rate["segment"] / rate["step by step"], 2), **machine,
                    }
                )  # fmt: skip
    return rows


def open_loop_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown, with their conditions above them."""
    first = rows[0]
    lines = [
        f"Frames/s without read feedback, d = {first['d']}, H = {first['heads']}, B = {first['batch']}, "
        f"T = {first['steps']}, input and controller {HIDDEN}, one thread; {first['date']}, {first['cpu']}, "
        f"torch {first['torch']}, commit {first['commit']}",
        "",
        "| core | controller | what | implementation | step by step | segment | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['rule']} | {row['controller']} | {row['what']} | {row['implementation']} | "
            f"{int(row['step_by_step']):,} | {int(row['segment']):,} | {row['ratio']} |"
        )
    return "\n".join(lines)


def run_open_loop(config: SpeedConfig) -> None:
    """--open-loop."""
    rows: list[dict[str, Any]] = list(read_csv(OPEN_LOOP)) if config.summary else measure_open_loop(config)
    print(open_loop_table(rows))
    if config.quick:
        return
    if not config.summary:
        write_csv(OPEN_LOOP, rows)
    put_table("memory_open_loop", open_loop_table(rows))


def kept_bytes(core: MemoryCore, steps: int, batch: int) -> int:
    """Bytes that autograd keeps for the backward of one segment, parameters aside, every storage once."""
    own = {p.untyped_storage().data_ptr() for p in core.parameters()}
    storages: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return x

    nobody = torch.zeros(steps, batch, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        kept = core.unroll(torch.randn(steps, batch, INPUT), core.initial_state(batch), nobody)
    del kept
    return sum(storages.values())


def measure_memory(rule: str, size: int, heads: int, batch: int = 2) -> list[Row]:
    """KiB per sample (a small batch: the plain one would need gigabytes)."""
    cores = build(rule, size, heads)
    rows = []
    for steps in (64, 1024):
        kept = {name: kept_bytes(core, steps, batch) / batch / 1024 for name, core in cores.items()}
        rows.append(row(rule, size, heads, batch, steps, "KiB kept per sample", kept, less=True))
    return rows


def print_table(rows: list[Row], peak: float) -> None:
    print(f"\ntorch {torch.__version__}, {cpu_model()}, one thread; GEMM peak {peak:.0f} GFLOP/s\n")
    print(
        "| rule | d | H | B | T | what | plain | fused | compiled | fused/plain | compiled/plain | of the peak |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        share = "" if r.peak_share is None else f"{100 * r.peak_share:.0f}%"
        compiled = "" if r.compiled is None else f"{r.compiled:,.0f}"
        ratio = "" if r.compiled_ratio is None else f"{r.compiled_ratio:.2f}"
        numbers = f"{r.plain:,.0f} | {r.fused:,.0f} | {compiled} | {r.fused_ratio:.2f} | {ratio} | {share}"
        print(f"| {r.rule} | {r.d} | {r.heads} | {r.batch} | {r.steps} | {r.what} | {numbers} |")


def save(rows: list[Row], peak: float) -> None:
    """Write the rows, each with where it was measured."""
    machine = {**machine_columns(), "gemm_peak_gflops": round(peak, 1)}
    plain = [dataclasses.asdict(row) for row in rows]
    write_csv(
        RESULTS,
        [{k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} | machine for row in plain],
    )


def draw() -> None:
    """Forward and backward of every line of the CSV, as a picture beside it."""
    names, values, colours = [], [], []
    for r in read_csv(RESULTS):
        for name, colour in COLOURS.items():
            if "backward" in r["what"] and r[name]:
                names.append(f"{r['rule']} d={r['d']} H={r['heads']} B={r['batch']} T={r['steps']} {name}")
                values.append(float(r[name]))
                colours.append(colour)
    plot_bars(RESULTS.with_suffix(".png"), names, values, colours, "frames/s, forward + backward, one thread")


def main(argv: Sequence[str]) -> int:
    config = parse(SpeedConfig(), argv, __doc__ or "")
    if config.summary and not config.open_loop:
        draw()
        return 0
    if not (config.summary or (config.open_loop and config.quick)):
        require_clean_tree()
    torch.set_num_threads(1)
    if config.open_loop:
        run_open_loop(config)
        return 0
    peak = gemm_peak(config.rounds)
    rows = []
    for rule in ("mnm-p", "mnm-g"):
        for shape in SHAPES:
            rows += measure(rule, *shape, config, peak)
        rows += measure_memory(rule, 128, 1)
    print_table(rows, peak)
    save(rows, peak)
    draw()
    return 0


if __name__ == "__main__":
    run_command(main)
