"""Switching a host between two programs while clients ask, through real Caddys."""

import http.client
import threading

from kennel_core.adapters.caddy import Caddy
from kennel_core.reconcile.routes import Proxy, table
from tests.servers.caddy import CaddyServer
from tests.servers.upstream import says, upstream
from tests.waiting import until

HOST = "shop.localhost"
LOST_IN_A_ROW = 2


class _Client(threading.Thread):
    """Asks as fast as it can over a connection that it keeps; wrong answers and lost requests are in `wrong`.

    A write makes Caddy close connections, on which nothing was answered. So the request is asked again, as
    RFC 9110 section 9.2.2 lets clients do, and may be lost once more: the new connection may wait in the
    queue of the listener that a write closes, and newer Caddys (their Go) also drop one whose first
    HTTP/1 request they have not read yet.
    """

    def __init__(self, caddy: CaddyServer) -> None:
        super().__init__()
        self.caddy = caddy
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
                if losses > LOST_IN_A_ROW:
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
        if answer.will_close:
            self._close()
        return answer.status, said

    def _close(self) -> None:
        if self.connection:
            self.connection.close()
        self.connection = None


def test_switching_under_load_fails_no_request(caddy: CaddyServer) -> None:
    clients = [_Client(caddy) for _ in range(3)]
    with upstream(says(b"blue")) as blue, upstream(says(b"green")) as green:
        caddy.ask.allowed.add(HOST)
        Caddy(caddy.admin).replace_routes(table([Proxy((HOST,), blue, 1)]))
        for client in clients:
            client.start()
        for word, port in [(b"green", green), (b"blue", blue)] * 5:
            before = [client.answers[word] for client in clients]
            Caddy(caddy.admin).replace_routes(table([Proxy((HOST,), port, 1)]))
            until(
                lambda before=before, word=word: all(
                    client.wrong or client.answers[word] > was + 5
                    for client, was in zip(clients, before, strict=True)
                ),
                what=f"every client sees {word!r}",
            )
        for client in clients:
            client.done.set()
            client.join()

    assert [client.wrong for client in clients] == [[], [], []]
