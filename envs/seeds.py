"""Seeds of environments: training and held-out seeds come from two ranges that cannot meet.

Training seeds lie in [0, 2^30), held-out seeds in [2^30, 2^31):

    train_seeds(s, N)[i]  =        (1,000,003 s mod M) + i,    i < N <= 2^20,   M = 2^30 - 2^20
    held_out_seed(s, e)   = 2^30 + (1,000,003 s + e) mod 2^30

Neighbouring run seeds `s` get blocks that do not overlap either, as long as a block is shorter than
1,000,003.
"""

from __future__ import annotations

from envs.errors import UserError

HALF = 2**30
MOST_ENVS = 2**20
STRIDE = 1_000_003


def train_seeds(seed: int, num_envs: int, first: int = 0) -> list[int]:
    """The seeds of training environments first, first + 1, ...: consecutive numbers in [0, 2^30)."""
    _check_not_negative("seed", seed)
    if not 1 <= num_envs <= MOST_ENVS - first:
        raise UserError(f"the number of environments must be between 1 and {MOST_ENVS}, not {num_envs}")
    start = (STRIDE * seed) % (HALF - MOST_ENVS) + first
    seeds = list(range(start, start + num_envs))
    assert min(seeds) >= 0, "training seeds must not be negative"
    assert max(seeds) < HALF, "training seeds must stay below 2^30"
    return seeds


def held_out_seed(seed: int, episode: int) -> int:
    """The seed of evaluation episode number `episode`, in [2^30, 2^31)."""
    _check_not_negative("seed", seed)
    _check_not_negative("episode", episode)
    held_out = HALF + (STRIDE * seed + episode) % HALF
    assert HALF <= held_out < 2 * HALF, "held-out seeds must lie in [2^30, 2^31)"
    return held_out


def _check_not_negative(name: str, value: int) -> None:
    if value < 0:
        raise UserError(f"{name} must be 0 or more, not {value}")
