"""Requests at a steady pace over HTTPS, on connections that are used again, until standard input ends.

usage: python -m benchmarks.load PORT CERTIFICATE HOST REQUESTS_PER_SECOND     prints a JSON object at its end

A request whose connection ends before a byte of the answer is sent once more on a new connection, as RFC
9112, 9.3.1 has it for requests that change nothing, and counted as repeated. Everything else that is not a
whole answer with status 200 counts as failed.
"""

import json
import socket
import ssl
import sys
import threading
import time
from collections import Counter

from benchmarks.rows import percentile

CONNECTIONS = 20
TIMEOUT_S = 30.0


class NoAnswer(Exception):
    """The connection ended before a byte of the answer."""


class Client:
    """One connection after the other."""

    def __init__(self, port: int, host: str, context: ssl.SSLContext) -> None:
        self._port, self._host, self._context = port, host, context
        self._request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self._connection: ssl.SSLSocket | None = None

    def get(self) -> tuple[int, str]:
        """Ask once; returns status and body."""
        if self._connection is None:
            plain = socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection = self._context.wrap_socket(plain, server_hostname=self._host)
        try:
            status, body, ends = self._ask(self._connection)
        except (OSError, ValueError, NoAnswer):
            self.close()
            raise
        if ends:
            self.close()
        return status, body

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, connection: ssl.SSLSocket) -> tuple[int, str, bool]:
        answer = b""
        try:
            connection.sendall(self._request)
            answer = connection.recv(65536)
        except (ConnectionError, ssl.SSLEOFError) as exc:
            raise NoAnswer from exc
        if not answer:
            raise NoAnswer
        while b"\r\n\r\n" not in answer:
            answer += self._more(connection)
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        while len(body) < int(headers["content-length"]):
            body += self._more(connection)
        return int(lines[0].split()[1]), body.decode(), headers.get("connection") == "close"

    def _more(self, connection: ssl.SSLSocket) -> bytes:
        data = connection.recv(65536)
        if not data:
            raise ConnectionError("the answer is cut off")
        return data


class Load:
    """What all clients see."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.seconds: list[float] = []
        self.answers: Counter[str] = Counter()
        self.repeated = 0

    def ask(self, client: Client, offset: float, per_second: float) -> None:
        """Ask at a steady pace; what is due while an answer takes long follows at once."""
        began, number = time.monotonic() + offset, 0
        while not self.stop.is_set():
            due = began + number / per_second
            number += 1
            time.sleep(max(0.0, due - time.monotonic()))
            repeated = 0
            try:
                try:
                    status, body = client.get()
                except NoAnswer:
                    repeated = 1
                    status, body = client.get()
                said = body if status == 200 else f"failed: {status}"
            except NoAnswer:
                said = "failed: the connection ended twice without an answer"
            except (OSError, ValueError, KeyError) as exc:
                said = f"failed: {type(exc).__name__} {exc}"
            took = time.monotonic() - due
            with self.lock:
                self.seconds.append(took)
                self.answers[said] += 1
                self.repeated += repeated
        client.close()


def main(port: str, certificate: str, host: str, rate: str) -> None:
    """Ask until standard input ends."""
    context = ssl.create_default_context(cafile=certificate)
    load = Load()
    began = time.monotonic()
    threads = [
        threading.Thread(
            target=load.ask,
            args=(Client(int(port), host, context), number / int(rate), int(rate) / CONNECTIONS),
        )
        for number in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    load.stop.set()
    for thread in threads:
        thread.join()
    result = {
        "requests": len(load.seconds),
        "per_second": len(load.seconds) / (time.monotonic() - began),
        "failed": sum(count for said, count in load.answers.items() if said.startswith("failed")),
        "failures": {said: count for said, count in load.answers.items() if said.startswith("failed")},
        "repeated": load.repeated,
        "versions": sum(not said.startswith("failed") for said in load.answers),
        "p50": percentile(load.seconds, 0.5),
        "p99": percentile(load.seconds, 0.99),
        "max": max(load.seconds),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
