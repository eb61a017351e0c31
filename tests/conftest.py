"""One thread for all tests: the tensors are small, and results then do not depend on the machine."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _committed_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks refuse to record from an uncommitted tree; tests run from one while it is worked on."""
    monkeypatch.setattr("benchmarks.common.source_commit", lambda: "0123abc")
