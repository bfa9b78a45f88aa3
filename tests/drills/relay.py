"""Carries TCP connections from one address to another, port by port: how a host reaches what listens on loopback.

python -m tests.drills.relay LISTEN_HOST TARGET_HOST PORT...
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
        sink.write_eof()
    except OSError:
        sink.transport.abort()  # broken at one end, broken at the other


async def _carry(target: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        far_reader, far_writer = await asyncio.open_connection(target, port)
    except OSError:
        writer.transport.abort()  # as a refused connection looks from here
        return
    await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
    for end in (writer, far_writer):
        end.close()


async def relay(listen: str, target: str, ports: list[int]) -> None:
    """Carry connections to listen:port on to target:port, for ever."""
    servers = [await asyncio.start_server(partial(_carry, target, port), listen, port) for port in ports]
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(relay(sys.argv[1], sys.argv[2], [int(port) for port in sys.argv[3:]]))
