"""CUDA graphs without CUDA: recording is replaced by a plain call into the same fixed buffers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.config import TrainConfig
from agents.cuda_graphs import Capture, Graphs, capture_for
from agents.learner import Learner, room_for_resets
from agents.rollout import Collector, Timing
from agents.trainer import build_model, make_generator
from envs import make_vec

CPU = torch.device("cpu")


def plain_capture(run: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
    """As `cuda_capture`: later runs may only read the inputs' buffers and overwrite the outputs'."""
    outputs = [x.detach() for x in run()]

    def replay() -> None:
        for mine, new in zip(outputs, run(), strict=True):
            mine.copy_(new.detach())

    return outputs, replay


def test_inputs_are_copied_in_and_outputs_belong_to_the_caller() -> None:
    seen: list[int] = []

    def function(x: Tensor, y: Tensor) -> list[Tensor]:
        seen.append(x.data_ptr())
        return [x + y, x * y]

    graphs = Graphs(function, plain_capture)
    given = [(torch.full((3,), float(i)), torch.full((3,), 2.0)) for i in range(4)]
    answers = [graphs(*pair) for pair in given]
    for (x, y), (total, product) in zip(given, answers, strict=True):
        assert torch.equal(total, x + y)  # still, after later calls
        assert torch.equal(product, x * y)
    assert len(set(seen)) == 1  # always the same buffer
    assert seen[0] not in [x.data_ptr() for x, _ in given]


def test_only_a_few_shapes_are_recorded() -> None:
    graphs = Graphs(lambda x: [2.0 * x], plain_capture)
    for length in (3, 4, 5, 3):
        assert torch.equal(graphs(torch.ones(length))[0], torch.full((length,), 2.0))
    assert len(graphs.known) == Graphs.MOST == 2


def test_where_recording_fails_one_line_says_so_and_training_goes_on() -> None:
    def fail(run: Callable[[], Sequence[Tensor]]) -> Any:
        raise RuntimeError("operation not permitted\nand more")

    graphs = Graphs(lambda x: [2.0 * x], fail)
    with pytest.warns(UserWarning, match=r"^training without CUDA graphs: operation not permitted$"):
        graphs(torch.ones(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(graphs(torch.ones(3))[0], torch.full((3,), 2.0))


def test_graphs_are_for_cuda_and_for_cores_that_can() -> None:
    cuda = torch.device("cuda", 0)
    assert capture_for(cuda, True, True) is not None
    assert (
        capture_for(CPU, True, True)
        is capture_for(cuda, False, True)
        is capture_for(cuda, True, False)
        is None
    )


def train(
    core: str, capture: Capture | None, max_steps: int
) -> tuple[dict[str, Any], dict[str, float], Learner]:
    """Three updates in float64, with several episodes per column and minibatches of two sizes."""
    config = TrainConfig(
        num_envs=5, core=core, rollout_steps=17, minibatches=2, epochs=2, hidden_size=10, memory_size=6, heads=2,
        embedding_size=8, implementation="fused",
    )  # fmt: skip
    env = make_vec("mnm/GridMaze9-v0", 5, 0, env_kwargs={"max_steps": max_steps})
    model = build_model(config, env.observation_space, env.action_space).double()
    collector = Collector(env, model, 17, make_generator(0, 1, CPU), Timing(), capture=capture)
    collector.start()
    learner = Learner(model, config, make_generator(0, 2, CPU))
    learner.capture = capture
    for update in range(3):
        metrics = learner.update(collector.collect(), progress=update / 3)
    return copy.deepcopy(model.state_dict()), metrics, learner


@pytest.mark.parametrize("core", ["mnm-p", "mnm-g", "none"])
def test_training_with_graphs_equals_training_without(core: str) -> None:
    """Acting and learning through fixed buffers, resets by mask; weights and every logged figure."""
    # Episodes of 8 steps fit into the room for resets, at two per column.
    plain, graphed = train(core, None, max_steps=8), train(core, plain_capture, max_steps=8)
    assert graphed[2].graphs is not None
    assert len(graphed[2].graphs.known) == 2  # minibatches of 3 and of 2 columns
    for name, weight in plain[0].items():
        torch.testing.assert_close(graphed[0][name], weight, rtol=0, atol=1e-9)
    for name, value in plain[1].items():
        assert graphed[1][name] == pytest.approx(value, abs=1e-7), name


def test_more_resets_than_a_graph_has_room_for_are_learnt_from_without_it() -> None:
    assert room_for_resets(torch.zeros(17, 3, dtype=torch.bool)) == 9
    plain, graphed = train("mnm-p", None, max_steps=3), train("mnm-p", plain_capture, max_steps=3)
    assert graphed[2].graphs is None
    for name, weight in plain[0].items():
        torch.testing.assert_close(graphed[0][name], weight, rtol=0, atol=1e-9)
