"""Several processes that train one policy: the few operations that the ranks of a torchrun job do together.

    torchrun --nproc-per-node 2 train_rl.py --preset maze --num-envs 128 --run-dir runs/maze

Every rank holds the whole agent and owns a block of the environments. K ranks make the update that one
process with all N environments would make, because nothing that is drawn or averaged depends on K:

    environments   environment n has the seed of number n, whoever owns it
    action noise   drawn for all N from one stream on every rank, of which it uses its own part
    minibatches    cut from all N in the same way on every rank, which runs those that it owns
    means          a rank's mean over its valid rows times its share of all valid rows, summed over the ranks

Rank 0 alone touches the run directory. gloo carries what lies on the CPU, nccl what lies on a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from agents.launch import RANK_TIMEOUT
from envs.errors import UserError, first_line

T = TypeVar("T")


class RankLost(UserError):
    """Another rank has stopped or does not answer, so this one cannot go on."""

    code = 1


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; by default it is alone, and nothing is exchanged."""

    rank: int = 0
    """Number of this process; 0 logs, prints and saves."""
    count: int = 1
    """Number of processes."""
    local: int = 0
    """Number of this process on its own machine, and so of the GPU that it uses."""

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """The numbers of this rank's environments; raises UserError if the ranks do not divide `total`."""
        if total % self.count:
            below = total - total % self.count
            nearest = f"{below} or {below + self.count}" if below else str(self.count)
            raise UserError(
                f"--num-envs {total} is the number over all ranks, and {self.count} ranks cannot share it "
                f"equally; nearest: {nearest}"
            )
        own = total // self.count
        return range(self.rank * own, (self.rank + 1) * own)

    def sum(self, x: Tensor) -> Tensor:
        """Sum of every rank's x, on every rank."""
        return self._reduce(x, dist.ReduceOp.SUM)

    def max(self, x: Tensor) -> Tensor:
        """Largest of every rank's x, on every rank."""
        return self._reduce(x, dist.ReduceOp.MAX)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on some rank."""
        return flag if self.count == 1 else bool(self.max(torch.tensor(int(flag))))

    def concatenate(self, x: Tensor) -> Tensor:
        """Every rank's x [n, ...], rank after rank, on every rank; all of one shape."""
        if self.count == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.count)]
        with self._together():
            dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    def gather(self, thing: T) -> list[T]:
        """Every rank's `thing` in the order of ranks, on every rank; anything that can be pickled."""
        if self.count == 1:
            return [thing]
        things: list[Any] = [None] * self.count
        with self._together():
            dist.all_gather_object(things, thing)
        return things

    def gather_on_first(self, thing: T) -> list[T]:
        """Every rank's `thing` in the order of ranks, on rank 0; nothing on the others."""
        if self.count == 1:
            return [thing]
        things: list[Any] | None = [None] * self.count if self.leads else None
        with self._together():
            dist.gather_object(thing, things)
        return things or []

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make()` gives on rank 0, on every rank. If it fails there, rank 0 says why and all end."""
        if self.count == 1:
            return make()
        box: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.leads:
            try:
                box[0] = make()
            except (UserError, SystemExit) as error:
                failure = error
                box[1] = error.code if isinstance(error, SystemExit) else 2
        with self._together():
            dist.broadcast_object_list(box, src=0)
        if failure is not None:
            raise failure
        if box[1] is not None:
            raise SystemExit(box[1])
        return cast(T, box[0])

    @torch.no_grad()
    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite `tensors` with those of rank 0."""
        if self.count > 1:
            with self._together():
                for x in tensors:
                    dist.broadcast(x, src=0)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the ranks, in one message; a missing one counts as zero."""
        if self.count == 1:
            return
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        total = self.sum(torch.cat([g.flatten() for g in parts]))
        for p, g in zip(parameters, total.split([p.numel() for p in parameters]), strict=True):
            p.grad = g.view_as(p)

    def _reduce(self, x: Tensor, operation: Any) -> Tensor:
        if self.count == 1:
            return x
        result = x.clone()
        with self._together():
            dist.all_reduce(result, operation)
        return result

    @contextmanager
    def _together(self) -> Iterator[None]:
        """An exchange among all ranks; raises RankLost where another one has stopped."""
        try:
            yield
        except RuntimeError as error:
            reason = first_line(error).split(". ")[0]
            raise RankLost(
                f"rank {self.rank} of {self.count}: another rank has stopped ({reason:.150})"
            ) from error


ALONE = Ranks()


def join(timeout_s: float = RANK_TIMEOUT) -> Ranks:
    """This process's place in the job that torchrun started, connected to the others; else ALONE."""
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        return ALONE
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    timeout = timedelta(seconds=timeout_s)
    store, rank, count = next(dist.rendezvous("env://", timeout=timeout))
    if int(os.environ["GROUP_WORLD_SIZE"]) == 1:
        # Restarted on one machine, the ranks meet in the store of the first attempt and must not find its
        # addresses there. (Several machines meet in a new one; their counts of restarts may differ.)
        store = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)
    return Ranks(rank, count, int(os.environ["LOCAL_RANK"]))


def leave(ranks: Ranks) -> None:
    """Disconnect, at the end of a job that went well."""
    if ranks.count > 1:
        dist.destroy_process_group()


def was_restarted() -> bool:
    """Whether torchrun has started this job again (--max-restarts) after a rank had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def pick_device(name: str, local: int = 0) -> torch.device:
    """The device that `--device` names, for process number `local` of this machine; raises UserError."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda was asked for, but PyTorch finds no CUDA device; use --device cpu")
    found = torch.cuda.device_count()
    if local >= found:
        raise UserError(
            f"every process needs a CUDA device of its own, and this machine has {found}; start {found}, or "
            "use --device cpu"
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def check_memory(needed: dict[str, float], device: torch.device) -> None:
    """Refuse what cannot fit this machine; `needed`: bytes that are needed at least, by what takes them."""
    if device.type == "cuda":
        return
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = max(needed, key=lambda name: needed[name])
    if sum(needed.values()) > total:
        raise UserError(
            f"{most} needs at least {needed[most] / 1e9:,.0f} GB of memory, and this machine has {total / 1e9:,.0f}; "
            "lower it"
        )


def restore_generator(generator: torch.Generator, state: Tensor) -> bool:
    """Put a saved state into a generator; False where it is that of another kind of device."""
    if state.numel() != generator.get_state().numel():
        return False
    generator.set_state(state.cpu())
    return True


def make_generator(seed: int, stream: int, device: torch.device) -> torch.Generator:
    """A random stream of its own for one use."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + stream)
