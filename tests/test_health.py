"""The health check and the count of connections, against real sockets."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from kennel_core.adapters import health
from tests.servers.ports import free_port
from tests.waiting import until


def alive() -> bool:
    return True


@contextmanager
def serving(answer: Callable[[socket.socket, bytes], None], host: str = "127.0.0.1") -> Iterator[int]:
    """Answer each connection, one after the other, with what `answer` does to it; gives the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _address = server.accept()
                    with client, suppress(OSError):
                        answer(client, client.recv(65536))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(30)


def saying(*answers: bytes) -> Callable[[socket.socket, bytes], None]:
    """Give one answer after the other, and the last one from then on."""
    left = list(answers)

    def answer(client: socket.socket, _request: bytes) -> None:
        client.sendall(left.pop(0) if len(left) > 1 else left[0])

    return answer


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_is_healthy(status: int) -> None:
    with serving(saying(b"HTTP/1.1 %d Whatever\r\n\r\n" % status)) as port:
        assert health.wait(port, "/api/health", 10, alive) is None


def test_a_service_that_answers_503_first_is_waited_for() -> None:
    with serving(saying(BUSY, BUSY, OK)) as port:
        assert health.wait(port, "/api/health", 20, alive) is None


def test_a_service_that_listens_later_is_waited_for() -> None:
    port = free_port()
    argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        assert health.wait(port, "/", 30, alive) is None
        child.kill()


def test_the_request_is_a_plain_get_of_the_path() -> None:
    requests = []

    def answer(client: socket.socket, request: bytes) -> None:
        requests.append(request.decode())
        client.sendall(OK)

    with serving(answer) as port:
        assert health.wait(port, "/ready?deep=1&x=a%20b", 10, alive) is None
        assert health.wait(port, "/a b\r\nX-Injected: 1/é", 10, alive) is None

    assert requests[0].startswith("GET /ready?deep=1&x=a%20b HTTP/1.1\r\n")
    assert f"\r\nHost: 127.0.0.1:{port}\r\n" in requests[0]
    assert requests[1].startswith("GET /a%20b%0D%0AX-Injected:%201/%C3%A9 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (BUSY, "HTTP 503"),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", "HTTP 302"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP 404"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "an answer that is not HTTP"),
        (b"\x16\x03\x01" * 3000, "an answer that is not HTTP"),
        (b"", "closed without an answer"),
    ],
)
def test_what_is_not_2xx_is_told(answer: bytes, seen: str) -> None:
    with serving(saying(answer)) as port:
        said = health.wait(port, "/api/health", 0.4, alive)

    assert said is not None
    assert said.startswith(f"GET /api/health on port {port} gives no 2xx (")
    assert said.endswith(f"tries, the last: {seen})")


def test_a_port_on_which_nothing_listens_is_told() -> None:
    said = health.wait(free_port(), "/api/health", 0.3, alive)

    assert said is not None
    assert "nothing listens there" in said


def test_a_service_that_listens_on_another_address_is_told_what_to_do() -> None:
    with serving(saying(OK), host="::1") as port:
        said = health.wait(port, "/api/health", 0.3, alive)

    assert said is not None
    assert said.endswith("it listens on another address: it must listen on 127.0.0.1 or on all")


def test_a_service_on_all_addresses_of_both_families_is_reached() -> None:
    with serving(saying(OK), host="::") as port:
        assert health.wait(port, "/api/health", 10, alive) is None


def trickle(client: socket.socket, _request: bytes) -> None:
    """Send an answer without an end, a byte at a time."""
    while True:
        client.sendall(b"H")
        time.sleep(0.02)


def hold(client: socket.socket, _request: bytes) -> None:
    """Say nothing until the client goes away."""
    client.recv(1)


@pytest.mark.parametrize("answer", [trickle, hold])
def test_a_service_that_keeps_the_connection_busy_takes_no_longer_than_allowed(
    answer: Callable[[socket.socket, bytes], None],
) -> None:
    start = time.monotonic()
    with serving(answer) as port:
        said = health.wait(port, "/api/health", 0.5, alive)

    assert said is not None
    assert time.monotonic() - start < health.PROBE_TIMEOUT_S


def test_a_healthy_answer_counts_although_its_body_never_ends() -> None:
    def stream(client: socket.socket, _request: bytes) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        trickle(client, _request)

    with serving(stream) as port:
        assert health.wait(port, "/events", 10, alive) is None


def test_a_process_that_ends_is_not_waited_for() -> None:
    start = time.monotonic()

    said = health.wait(free_port(), "/api/health", 600, lambda: False)

    assert said == "the process ended before GET /api/health answered 2xx"
    assert time.monotonic() - start < 60


def test_a_process_that_ends_meanwhile_is_told_with_what_was_seen() -> None:
    states = iter([True, True, False])
    with serving(saying(BUSY)) as port:
        said = health.wait(port, "/api/health", 600, lambda: next(states))

    assert said == "the process ended before GET /api/health answered 2xx (2 tries, the last: HTTP 503)"


def test_without_a_path_a_service_is_up_when_it_has_run_for_a_second() -> None:
    start = time.monotonic()

    assert health.wait(free_port(), None, 60, alive) is None
    assert time.monotonic() - start >= health.SETTLE_S


def test_without_a_path_a_service_that_ends_is_not_up() -> None:
    states = iter([True, False])

    assert health.wait(free_port(), None, 60, lambda: next(states)) == "the process ended at once"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_are_counted_by_their_local_port(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((host, 0), family=family))
        port = server.getsockname()[1]
        assert health.connections(port) == 0
        accepted = []
        for _ in range(3):
            stack.enter_context(socket.create_connection((host, port)))
            accepted.append(stack.enter_context(server.accept()[0]))
        until(lambda: health.connections(port) == 3)

        accepted[0].close()

        until(lambda: health.connections(port) == 2)
