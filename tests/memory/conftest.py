"""What several tests of the memory are run with."""

from __future__ import annotations

from typing import Any

import pytest
from fused_pair import IMPLEMENTATIONS

from memory.mnm.cpp_backend.build import find_kernel


@pytest.fixture(params=["fused", "compiled"])
def implementation(request: pytest.FixtureRequest) -> Any:
    """The fast formulations in turn."""
    if request.param not in IMPLEMENTATIONS:
        pytest.skip(f"no compiled kernel: {find_kernel()}")
    return request.param
