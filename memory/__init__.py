"""Memory: the neural memory rewritten at every step, the cores it is compared with, hard-addressed banks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.lazy import lazy

if TYPE_CHECKING:
    from memory.config import CORE_NAMES, CORES, CoreConfig, CoreSettings, make_core
    from memory.core import (
        AddressRecord,
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
    from memory.mnm.cpp_backend.step import PackedRecord
    from memory.mnm.fast import FusedMNMCore
    from memory.mnm.neural import NeuralMemory, WriteFactors
    from memory.mnm.reference import MNMCore, MNMState
    from memory.mnm.torch_backend.step import step_in_place
    from memory.options import Controller
    from memory.recurrent.cores import GRUCore, LSTMCore, NoMemory

HOMES = {
    "memory.config": "CORE_NAMES CORES CoreConfig CoreSettings make_core",
    "memory.core": "AddressRecord CoreOutput Intervention MemoryCore MemoryRecord "
    "detach_state map_state output_without_writes reset_state select_state",
    "memory.hard.bank": "BankRead MemoryBank",
    "memory.hard.core": "HardCore HardState",
    "memory.hard.estimators": "ESTIMATORS Choice EstimatorName choice_noise choose choose_best",
    "memory.hard.straight_through": "Annealing gumbel_noise straight_through",
    "memory.mnm.cpp_backend.step": "PackedRecord",
    "memory.mnm.fast": "FusedMNMCore",
    "memory.mnm.neural": "NeuralMemory WriteFactors",
    "memory.mnm.reference": "MNMCore MNMState",
    "memory.mnm.torch_backend.step": "step_in_place",
    "memory.options": "Controller",
    "memory.recurrent.cores": "GRUCore LSTMCore NoMemory",
}
"""Where the public names come from."""

__all__, __getattr__ = lazy(__name__, HOMES)
