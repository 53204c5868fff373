"""A program behind Caddy, in this process: it answers what the test's function answers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

from tests.servers.ports import free_port

Handler = BaseHTTPRequestHandler


@contextmanager
def upstream(answer: Callable[[Handler], None], *, port: int = 0, threads: bool = True) -> Iterator[int]:
    """Listen on 127.0.0.1 while the block runs; gives the port. Without `threads` one request at a time."""

    class OneHandler(Handler):
        protocol_version = "HTTP/1.1" if threads else "HTTP/1.0"  # one worker keeps no connection

        disable_nagle_algorithm = True

        def do_GET(self) -> None:  # noqa: N802
            answer(self)

        do_POST = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = (ThreadingHTTPServer if threads else HTTPServer)(("127.0.0.1", port or free_port()), OneHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def says(text: bytes) -> Callable[[Handler], None]:
    """Make a program that always says the same."""

    def answer(handler: Handler) -> None:
        body_of(handler)
        reply(handler, text)

    return answer


def reply(handler: Handler, body: bytes, status: int = 200, **headers: str) -> None:
    """Answer with a length. Underscores of header names become hyphens."""
    handler.send_response(status)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def body_of(handler: Handler) -> bytes:
    """Read the request's body, with a length or in chunks."""
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    body = b""
    while size := int(handler.rfile.readline(), 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body
