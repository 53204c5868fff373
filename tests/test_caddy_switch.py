"""Switching a host between two programs while clients ask, through real Caddys."""

import asyncio
import http.client
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection, serve

from kennel_core.adapters.caddy import Caddy
from kennel_core.reconcile.routes import Proxy, table
from tests.servers.caddy import CaddyServer, programs, version_of, websocket
from tests.servers.upstream import says, upstream
from tests.waiting import until

HOST, OTHER = "shop.localhost", "other.localhost"
SWITCHES = 20

reading_files = pytest.mark.parametrize(
    "caddy_server",
    [program for program in programs() if version_of(program) >= (2, 8)],
    indirect=True,
    ids=lambda program: "caddy-{}.{}".format(*version_of(program)),
)


class _Client(threading.Thread):
    """Asks as fast as it can; answers are counted, and what is not one is in `wrong`.

    With `keep` it asks over one connection for as long as Caddy leaves it open. A request that is closed
    without an answer is asked again, as RFC 9110 section 9.2.2 lets clients do, `patience` times.
    """

    def __init__(self, caddy: CaddyServer, *, keep: bool, patience: int) -> None:
        super().__init__()
        self.caddy = caddy
        self.keep = keep
        self.patience = patience
        self.answers: dict[bytes, int] = dict.fromkeys((b"blue", b"green"), 0)
        self.wrong: list[object] = []
        self.done = threading.Event()
        self.connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        losses = 0
        while not self.done.is_set():
            try:
                status, said = self._ask()
            except (http.client.HTTPException, OSError) as exc:
                self._close()
                losses += 1
                if losses > self.patience:
                    self.wrong.append(exc)
                continue
            losses = 0
            if said in self.answers:
                self.answers[said] += 1
            else:
                self.wrong.append(status)
        self._close()

    def _ask(self) -> tuple[int, bytes]:
        self.connection = self.connection or self.caddy.connect(HOST)
        self.connection.request("GET", "/", headers={"Host": HOST})
        answer = self.connection.getresponse()
        said = answer.read()
        if answer.will_close or not self.keep:
            self._close()
        return answer.status, said

    def _close(self) -> None:
        if self.connection:
            self.connection.close()
        self.connection = None


def _switch_under_load(caddy: CaddyServer, clients: list[_Client], lead: Callable[[int], object]) -> None:
    """Lead HOST back and forth; each time every client must see it."""
    with upstream(says(b"blue")) as blue, upstream(says(b"green")) as green:
        caddy.ask.allowed.add(HOST)
        lead(blue)
        for client in clients:
            client.start()
        try:
            for word, port in [(b"green", green), (b"blue", blue)] * (SWITCHES // 2):
                lead(port)
                before = [client.answers[word] for client in clients]
                until(
                    lambda before=before, word=word: all(
                        client.wrong or client.answers[word] > was + 1
                        for client, was in zip(clients, before, strict=True)
                    ),
                    what=f"every client sees {word!r}",
                )
        finally:
            for client in clients:
                client.done.set()
            for client in clients:
                client.join()
    assert [client.wrong for client in clients] == [[]] * len(clients)


@reading_files
def test_a_new_version_takes_over_without_losing_any_request_on_any_connection(caddy: CaddyServer) -> None:
    clients = [_Client(caddy, keep=keep, patience=0) for keep in (True, True, False, False)]
    reloads: list[int] = []

    def lead(port: int) -> None:
        caddy.lead(Proxy((HOST,), port, 1))
        reloads.append(caddy.reloads())

    _switch_under_load(caddy, clients, lead)

    assert len(set(reloads)) == 1


def test_where_a_reload_cuts_a_connection_the_third_try_is_answered_at_the_latest(caddy: CaddyServer) -> None:
    """A reload closes connections on which nothing was answered.

    The next one may wait in the queue of the listener that is closed, and newer Caddys (their Go) also drop
    one whose first HTTP/1 request they have not read yet.
    """
    clients = [_Client(caddy, keep=True, patience=2) for _ in range(3)]

    _switch_under_load(
        caddy, clients, lambda port: Caddy(caddy.admin).replace_routes(table([Proxy((HOST,), port, 1)]))
    )


@asynccontextmanager
async def _parrot(name: str) -> AsyncIterator[int]:
    """Repeat what comes over a WebSocket, with a name; gives the port."""

    async def answer(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(f"{name}: {message!s}")

    async with serve(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def _said(message: str, *talks: ClientConnection) -> list[str | bytes]:
    """Say it to each; gives their answers."""
    for talk in talks:
        await talk.send(message)
    async with asyncio.timeout(20):
        return [await talk.recv() for talk in talks]


@reading_files
def test_websockets_stay_with_the_version_they_talk_to(caddy: CaddyServer) -> None:
    caddy.ask.allowed |= {HOST, OTHER}

    async def lead(host: int, other: int) -> None:
        await asyncio.to_thread(caddy.lead, Proxy((HOST,), host, 1), Proxy((OTHER,), other, 2))

    async def talk() -> None:
        async with _parrot("old") as old, _parrot("new") as new:
            await lead(old, old)
            async with websocket(caddy, HOST) as first, websocket(caddy, OTHER) as other:
                assert await _said("1", first, other) == ["old: 1", "old: 1"]
                for port in [new, old] * (SWITCHES // 2) + [new]:
                    await lead(port, old)
                async with websocket(caddy, HOST) as second:
                    assert await _said("2", first, other, second) == ["old: 2", "old: 2", "new: 2"]

    asyncio.run(talk())


@reading_files
def test_a_service_whose_file_is_missing_is_a_bad_gateway_and_waits_for_it(caddy: CaddyServer) -> None:
    caddy.ask.allowed |= {HOST, OTHER}
    with upstream(says(b"here")) as port:
        caddy.lead(Proxy((HOST,), port, 1), Proxy((OTHER,), port, 2))
        caddy.kennel.remove_target("1.port")

        assert caddy.request(HOST).status == 502
        assert caddy.request(OTHER).body == b"here"

        connection = caddy.connect(HOST)
        connection.request("GET", "/", headers={"Host": HOST})
        assert caddy.lead(Proxy((HOST,), port, 1), Proxy((OTHER,), port, 2))
        assert connection.getresponse().read() == b"here"
        connection.close()
