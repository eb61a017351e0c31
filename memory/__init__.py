"""Memory: the neural memory rewritten at every step, the cores it is compared with, hard-addressed banks."""

from memory.bank import BankRead, MemoryBank
from memory.config import CORE_NAMES, CoreConfig, CoreName, Implementation, make_core
from memory.core import (
    AddressRecord,
    Controller,
    CoreOutput,
    MemoryCore,
    MemoryRecord,
    detach_state,
    map_state,
    reset_state,
    select_state,
)
from memory.estimators import ESTIMATORS, Choice, EstimatorName, choice_noise, choose, choose_best
from memory.fused import FusedMNMCore
from memory.hard import Annealing, gumbel_noise, straight_through
from memory.hard_core import HardCore, HardState
from memory.mnm import MNMCore, MNMState
from memory.neural import NeuralMemory, WriteFactors
from memory.recurrent import GRUCore, LSTMCore, NoMemory

__all__ = [
    "CORE_NAMES",
    "ESTIMATORS",
    "AddressRecord",
    "Annealing",
    "BankRead",
    "Choice",
    "Controller",
    "CoreConfig",
    "CoreName",
    "CoreOutput",
    "EstimatorName",
    "FusedMNMCore",
    "GRUCore",
    "HardCore",
    "HardState",
    "Implementation",
    "LSTMCore",
    "MNMCore",
    "MNMState",
    "MemoryBank",
    "MemoryCore",
    "MemoryRecord",
    "NeuralMemory",
    "NoMemory",
    "WriteFactors",
    "choice_noise",
    "choose",
    "choose_best",
    "detach_state",
    "gumbel_noise",
    "make_core",
    "map_state",
    "reset_state",
    "select_state",
    "straight_through",
]
