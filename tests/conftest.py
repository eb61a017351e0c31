"""For all tests: one thread, as the tensors are small and results then do not depend on the machine; their order."""

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _committed_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks refuse to record from an uncommitted tree; tests run from one while it is worked on."""
    monkeypatch.setattr("benchmarks.common.source_commit", lambda: "0123abc")


@pytest.fixture(autouse=True)
def _no_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the curves takes longer than most trainings here; tests that look at them are marked `curves`."""
    if request.node.get_closest_marker("curves") is None:
        for module in ("agents.trainer", "tasks.trainer"):
            monkeypatch.setattr(f"{module}.plot_curves", lambda *_, **__: False)
