"""Choosing ports, and saying who has one."""

from __future__ import annotations

import os
import socket

import pytest

from infra.local import ports
from infra.local.errors import StackError


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_somebody_listens_on_is_not_free(host: str) -> None:
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]
        assert not ports.is_free(port)
        assert ports.holder(port).startswith(f"pid {os.getpid()} (")
    assert ports.is_free(port)


def test_a_port_whose_last_connection_winds_down_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()
        client.close()
    assert ports.is_free(port)


def test_chosen_ports_are_free_different_and_below_those_of_outgoing_connections() -> None:
    names = [f"p{number}" for number in range(50)]
    chosen = ports.choose(names)
    assert list(chosen) == names
    assert len(set(chosen.values())) == 50
    assert all(port < 32768 and ports.is_free(port) for port in chosen.values())


def test_ports_known_to_be_taken_are_left_out() -> None:
    but_one = list(ports.PORT_RANGE)
    (left,) = ports.choose(["only"]).values()
    but_one.remove(left)
    assert ports.choose(["mine"], taken=but_one) == {"mine": left}


def test_running_out_of_ports_is_an_error() -> None:
    with pytest.raises(StackError, match=r"no free port is left among 20000\.\.31999"):
        ports.choose(["one"], taken=ports.PORT_RANGE)
