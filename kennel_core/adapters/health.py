"""What can be seen of a service from outside: whether it answers, and who is connected to it."""

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

FIRST_PAUSE_S = 0.1  # between probes; grows to LAST_PAUSE_S
LAST_PAUSE_S = 1.0
PROBE_TIMEOUT_S = 5.0
SETTLE_S = 1.0  # how long a service without a health path must run to count as up

STATUS_LINE_MAX = 4096  # bytes
DRAIN_S = 0.5  # spent on the body

# /proc/net/tcp, column "st": include/net/tcp_states.h
_ESTABLISHED = "01"
_LISTEN = "0A"


def wait(port: int, path: str | None, timeout: float, alive: Callable[[], bool]) -> str | None:
    """Wait until GET http://127.0.0.1:`port``path` answers 2xx, at most `timeout` seconds.

    Without a path: until `alive` has said yes for a second. Returns None when the service is up, else one
    sentence of what was seen. A service that answers a byte at a time takes no longer than `timeout`.
    """
    deadline = time.monotonic() + timeout
    if path is None:
        return _settle(min(deadline, time.monotonic() + SETTLE_S), alive)
    probes, seen, pause = 0, "", FIRST_PAUSE_S
    while True:
        if not alive():
            return f"the process ended before GET {path} answered 2xx{_so_far(probes, seen)}"
        probes += 1
        seen = _probe(port, path, min(deadline, time.monotonic() + PROBE_TIMEOUT_S))
        if re.fullmatch(r"HTTP 2\d\d", seen):
            return None
        if time.monotonic() + pause >= deadline:
            where = _listens_elsewhere(port)
            failed = f"GET {path} on port {port} gives no 2xx"
            return f"{failed}{_so_far(probes, seen)}{where}"
        time.sleep(pause)
        pause = min(pause * 1.5, LAST_PAUSE_S)


def connections(port: int) -> int:
    """Count the established TCP connections whose local port is `port`, IPv4 and IPv6."""
    return sum(row.port == port and row.state == _ESTABLISHED for row in _sockets())


def _settle(until: float, alive: Callable[[], bool]) -> str | None:
    while alive():
        if time.monotonic() >= until:
            return None
        time.sleep(FIRST_PAUSE_S)
    return "the process ended at once"


def _so_far(probes: int, seen: str) -> str:
    return f" ({probes} tries, the last: {seen})" if probes else ""


def _probe(port: int, path: str, deadline: float) -> str:
    """Ask once; give ``HTTP <status>`` or what went wrong."""
    target = quote(path, safe="/?&=%:@!$'()*+,;~")
    request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: kennel\r\nAccept: */*\r\n"
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_left(deadline)) as connection:
            connection.sendall(f"{request}Connection: close\r\n\r\n".encode())
            while b"\n" not in answer and len(answer) < STATUS_LINE_MAX:
                answer += (data := _receive(connection, deadline))
                if not data:
                    break
            _drain(connection, min(deadline, time.monotonic() + DRAIN_S))
    except ConnectionRefusedError:
        return "nothing listens there"
    except TimeoutError:
        return "no answer in time"
    except OSError as exc:
        return exc.strerror or type(exc).__name__
    status = re.match(rb"HTTP/1\.[01] (\d{3})\b", answer)
    if status:
        return f"HTTP {status[1].decode()}"
    return "an answer that is not HTTP" if answer else "closed without an answer"


def _receive(connection: socket.socket, deadline: float) -> bytes:
    connection.settimeout(_left(deadline))
    return connection.recv(65536)


def _drain(connection: socket.socket, deadline: float) -> None:
    """Read the rest, within reason: closing before its end would show as an error in the service's log."""
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline and _receive(connection, deadline):
            pass


def _left(deadline: float) -> float:
    return max(0.01, deadline - time.monotonic())


def _listens_elsewhere(port: int) -> str:
    """Say so where the service listens, but not where Caddy will look for it."""
    listening = [row for row in _sockets() if row.port == port and row.state == _LISTEN]
    if listening and not any(row.on_loopback for row in listening):
        return "; it listens on another address: it must listen on 127.0.0.1 or on all"
    return ""


@dataclass(frozen=True, slots=True)
class _Socket:
    address: str  # hexadecimal, as the kernel prints it
    port: int
    state: str

    @property
    def on_loopback(self) -> bool:
        """Whether a connection to 127.0.0.1 arrives here."""
        return self.address in {"0100007F", "00000000", "0" * 32, "0000000000000000FFFF00000100007F"}


def _sockets() -> Iterator[_Socket]:
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{name}").read_text().splitlines()
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in lines[1:]:
            _number, local, _remote, state = line.split(maxsplit=4)[:4]
            address, port = local.rsplit(":", 1)
            yield _Socket(address, int(port, 16), state)
