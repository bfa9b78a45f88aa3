"""Processes of one gloo group that run the same function together."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT_S = 60


class Ranks:
    """`size` processes, alive until `close`, so that many tests share the cost of starting them."""

    def __init__(self, size: int, folder: Path) -> None:
        self.size = size
        self._connections: list[Connection] = []
        self._processes = []
        context = mp.get_context("spawn")
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, size, folder / "rendezvous", there), daemon=True)
            process.start()
            there.close()
            self._connections.append(here)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call function(rank, *args) on every rank and return what each returned, by rank."""
        # As bytes: a tensor sent as an object would travel through shared memory that its sender must keep open.
        for connection in self._connections:
            connection.send_bytes(pickle.dumps((function, args)))
        answers = [pickle.loads(connection.recv_bytes()) for connection in self._connections]  # noqa: S301
        failures = [f"rank {rank}:\n{text}" for rank, (failed, text) in enumerate(answers) if failed]
        assert not failures, "\n".join(failures)
        return [value for _, value in answers]

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.send_bytes(pickle.dumps(None))
            connection.close()
        for process in self._processes:
            process.join()
            process.close()


def _serve(rank: int, size: int, rendezvous: Path, connection: Connection) -> None:
    torch.set_num_threads(1)
    timeout = timedelta(seconds=TIMEOUT_S)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size, timeout=timeout)
    while (call := pickle.loads(connection.recv_bytes())) is not None:  # noqa: S301
        function, args = call
        try:
            answer = (False, function(rank, *args))
        except Exception:  # noqa: BLE001 - the test that called shows it
            answer = (True, traceback.format_exc())
        connection.send_bytes(pickle.dumps(answer))
    if dist.is_initialized():
        dist.destroy_process_group()
