"""Memory: the neural memory rewritten at every step, the cores it is compared with, hard-addressed banks."""

from memory.config import CORE_NAMES, CORES, CoreConfig, CoreSettings, make_core
from memory.core import (
    AddressRecord,
    Controller,
    CoreOutput,
    Intervention,
    MemoryCore,
    MemoryRecord,
    detach_state,
    map_state,
    output_without_writes,
    reset_state,
    select_state,
)
from memory.hard.bank import BankRead, MemoryBank
from memory.hard.core import HardCore, HardState
from memory.hard.estimators import ESTIMATORS, Choice, EstimatorName, choice_noise, choose, choose_best
from memory.hard.straight_through import Annealing, gumbel_noise, straight_through
from memory.mnm.fast import FusedMNMCore
from memory.mnm.neural import NeuralMemory, WriteFactors
from memory.mnm.reference import MNMCore, MNMState
from memory.mnm.torch_backend.step import step_in_place
from memory.recurrent.cores import GRUCore, LSTMCore, NoMemory

__all__ = [
    "CORES",
    "CORE_NAMES",
    "ESTIMATORS",
    "AddressRecord",
    "Annealing",
    "BankRead",
    "Choice",
    "Controller",
    "CoreConfig",
    "CoreOutput",
    "CoreSettings",
    "EstimatorName",
    "FusedMNMCore",
    "GRUCore",
    "HardCore",
    "HardState",
    "Intervention",
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
    "output_without_writes",
    "reset_state",
    "select_state",
    "step_in_place",
    "straight_through",
]
