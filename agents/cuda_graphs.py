"""CUDA graphs: a function of tensors is recorded once and replayed, so that no call waits for Python.

A written memory makes dozens of small calls per time step, and on a GPU starting them costs more than doing
them. A graph is one call. In return everything in it is fixed: the shapes, the addresses (so inputs are copied
into buffers of the graph, and outputs out of them), and every number that is not a tensor.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Tensors = Sequence[Tensor]
Function = Callable[..., Tensors]
Capture = Callable[[Callable[[], Tensors]], tuple[Tensors, Callable[[], None]]]
"""Runs a function without arguments; returns its outputs, and what computes them again in place."""

WARM_UP = 3
"""Runs before the recording, in which libraries choose their kernels and allocate."""


def cuda_capture(run: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], None]]:
    """Record what `run` does on the GPU."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    return outputs, graph.replay


class Graphed:
    """A recorded function for inputs of one shape; its outputs belong to the caller."""

    def __init__(self, function: Function, inputs: Tensors, capture: Capture) -> None:
        self.inputs = [x.detach().clone() for x in inputs]
        self.outputs, self.replay = capture(lambda: function(*self.inputs))

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        self.replay()
        return [x.detach().clone() for x in self.outputs]


class Graphs:
    """A function in its recorded forms, one per shape of its inputs; called plainly where there is none.

    The function takes tensors alone and returns tensors alone. `capture` is None where nothing is to be
    recorded. If recording fails, one line says so, and the function is called plainly from then on.
    """

    MOST = 2
    """Shapes that are recorded: minibatches differ by at most one column, and every graph keeps its memory."""

    def __init__(self, function: Function, capture: Capture | None) -> None:
        self.function, self.capture = function, capture
        self.known: dict[tuple[torch.Size, ...], Graphed] = {}

    def __call__(self, *inputs: Tensor) -> Tensors:
        shapes = tuple(x.shape for x in inputs)
        if self.capture is not None and shapes not in self.known and len(self.known) < self.MOST:
            try:
                self.known[shapes] = Graphed(self.function, inputs, self.capture)
            except RuntimeError as error:
                self.capture = None
                self.known.clear()
                warnings.warn(f"training without CUDA graphs: {str(error).splitlines()[0]}", stacklevel=2)
        graphed = self.known.get(shapes)
        return self.function(*inputs) if graphed is None else graphed(*inputs)


def capture_for(device: torch.device, wanted: bool, capturable: bool) -> Capture | None:
    """How to record on this device, or None: not wanted, not CUDA, or a core that no graph can hold."""
    return cuda_capture if wanted and capturable and device.type == "cuda" else None
