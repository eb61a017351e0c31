"""Memory cores: the neural memory that is rewritten at every step, and the cores it is compared with."""

from memory.config import CORE_NAMES, CoreConfig, CoreName, make_core
from memory.core import (
    CoreOutput,
    MemoryCore,
    MemoryRecord,
    detach_state,
    map_state,
    reset_state,
    select_state,
)
from memory.fused import FusedMNMCore
from memory.mnm import MNMCore, MNMState
from memory.neural import NeuralMemory, WriteFactors
from memory.recurrent import GRUCore, LSTMCore, NoMemory

__all__ = [
    "CORE_NAMES",
    "CoreConfig",
    "CoreName",
    "CoreOutput",
    "FusedMNMCore",
    "GRUCore",
    "LSTMCore",
    "MNMCore",
    "MNMState",
    "MemoryCore",
    "MemoryRecord",
    "NeuralMemory",
    "NoMemory",
    "WriteFactors",
    "detach_state",
    "make_core",
    "map_state",
    "reset_state",
    "select_state",
]
