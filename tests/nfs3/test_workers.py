"""How connections are spread over workers: each new one goes to the least loaded."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.tools.servers import ServerSet, wait_until

from .conftest import CRED, Exports

DEADLINE_S = 20.0


@pytest.fixture
def server(exports: Exports) -> Iterator[ServerSet]:
    with ServerSet(exports.base / "server", exports.table, workers=4) as running:
        yield running


def connections(server: ServerSet) -> list[int]:
    """Of each worker."""
    return [slot["connections"] for slot in server.status()["slots"]]


def settle(server: ServerSet, want: list[int]) -> None:
    wait_until(lambda: sorted(connections(server)) == want, deadline_s=DEADLINE_S, what=f"connections {want}")


def test_four_connections_of_one_client_use_four_workers(server: ServerSet) -> None:
    """What a client opens with nconnect=4; and two for each when another one comes."""
    with ExitStack() as stack:
        settle(server, [0, 0, 0, 0])
        for want in ([1, 1, 1, 1], [2, 2, 2, 2]):
            for _ in range(4):
                stack.enter_context(closing(server.client(CRED))).null()
            settle(server, want)
    settle(server, [0, 0, 0, 0])


def test_new_connection_goes_to_the_least_loaded_worker(server: ServerSet) -> None:
    """Where connections ended there is room for the next ones."""
    with ExitStack() as stack:
        settle(server, [0, 0, 0, 0])  # who asked whether the server is there has gone
        clients = [stack.enter_context(closing(server.client(CRED))) for _ in range(12)]
        settle(server, [3, 3, 3, 3])
        for client in clients[:5]:
            client.close()
        wait_until(lambda: sum(connections(server)) == 7, deadline_s=DEADLINE_S, what="end of five connections")
        for _ in range(5):
            stack.enter_context(closing(server.client(CRED))).null()
        settle(server, [3, 3, 3, 3])
