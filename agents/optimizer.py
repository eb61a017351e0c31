"""PyTorch's Adam without the compiler that it loads.

PyTorch's optimizers import `torch._dynamo` when they are built and at every step, only to tell it to leave them
alone. Nothing here is compiled, and loading it takes about as long as loading PyTorch itself.
"""

from __future__ import annotations

import inspect

import torch


class Adam(torch.optim.Adam):
    """`torch.optim.Adam`, its methods without their wrappers; the numbers and the state are the same."""

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
