"""A TCP proxy in a process of its own that counts what a server sends, and delays what it is sent.

`tc netem` would be nearer to a real network, but needs root and a kernel that has it. A delay of requests, and of
connections, costs a client what as long a round trip would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any
from urllib.parse import urlsplit

_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class Wire:
    """A running proxy."""

    address: str
    _count: Any

    @property
    def bytes_sent(self) -> int:
        """By the server to its clients, HTTP headers included."""
        return int(self._count.value)


@contextmanager
def slow_wire(upstream: str, delay_s: float) -> Iterator[Wire]:
    """A proxy before `upstream`, an http:// address."""
    context = get_context("forkserver")
    count = context.Value("q", 0)
    ours, theirs = context.Pipe()
    host, _, port = urlsplit(upstream).netloc.partition(":")
    process = context.Process(target=_serve, args=(host, int(port), delay_s, count, theirs), daemon=True)
    process.start()
    try:
        yield Wire(f"http://127.0.0.1:{ours.recv()}", count)
    finally:
        process.terminate()
        process.join()


def _serve(host: str, port: int, delay_s: float, count: Any, pipe: Any) -> None:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(delay_s)
        try:
            up_reader, up_writer = await asyncio.open_connection(host, port)
            await asyncio.gather(_send_late(reader, up_writer, delay_s), _send_counted(up_reader, writer, count))
        except OSError:
            writer.close()  # as the client or the server did

    async def run() -> None:
        server = await asyncio.start_server(connect, "127.0.0.1", 0, limit=4 * _CHUNK_BYTES)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def _send_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    while data := await reader.read(_CHUNK_BYTES):
        loop.call_later(delay_s, writer.write, data)
    loop.call_later(delay_s, writer.close)


async def _send_counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Any) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        count.value += len(data)
        writer.write(data)
        await writer.drain()
    writer.close()
