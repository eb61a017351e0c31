"""One of our trainers as several ranks, driven update by update from outside: for contests over the whole machine."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from agents.config import TrainConfig
from agents.distributed import Ranks
from agents.trainer import Trainer


class RankedRun:
    """`count` ranks of one thread each, which train one policy together and wait between updates."""

    def __init__(self, config: TrainConfig, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        config = dataclasses.replace(config, threads=1)
        self.cpu_s, self.pipes, self.ranks = 0.0, [], []
        meeting = f"file://{config.directory()}.meeting"
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, config, rank, count, meeting), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.ranks.append(process)

    def advance(self) -> int:
        """One rollout and one update of all ranks; returns the frames played."""
        for pipe in self.pipes:
            pipe.send("advance")
        answers = [pipe.recv() for pipe in self.pipes]
        self.cpu_s += max(cpu for _, cpu in answers)
        return int(answers[0][0])

    def close(self) -> None:
        """End the ranks."""
        for pipe in self.pipes:
            pipe.send("close")
        for process in self.ranks:
            process.join(timeout=30)


def serve(pipe: Connection, config: TrainConfig, rank: int, count: int, meeting: str) -> None:
    """What a rank does: an update whenever it is told to, answered by its frames and its processor time."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    trainer = Trainer(config, ranks=Ranks(rank, count, rank))
    while pipe.recv() == "advance":
        frames, cpu = trainer.collector.frames, time.process_time()
        trainer.advance()
        pipe.send((trainer.collector.frames - frames, time.process_time() - cpu))
    trainer.close()
    dist.destroy_process_group()
