"""One thread for all tests: the tensors are small, and results then do not depend on the machine."""

import torch

torch.set_num_threads(1)
