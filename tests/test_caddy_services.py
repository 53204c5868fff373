"""Services as a client sees them, through real Caddys."""

import asyncio
import functools
import os
import queue
import threading
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from kennel_core.reconcile.routes import Proxy
from tests.servers.caddy import CaddyServer, websocket
from tests.servers.ports import free_port
from tests.servers.upstream import body_of, reply, upstream
from tests.waiting import until

HOST = "shop.localhost"
EPOCH = "Thu, 01 Jan 1970 00:00:01 GMT"


def route(caddy: CaddyServer, *ports: int) -> None:
    """Send HOST to the first port; the others belong to other hosts."""
    caddy.ask.allowed.add(HOST)
    entries = [Proxy((f"other{n}.localhost" if n else HOST,), port, n) for n, port in enumerate(ports)]
    caddy.lead(*entries)


def echo(handler: BaseHTTPRequestHandler) -> None:
    said = {name.lower(): value for name, value in handler.headers.items()}
    told = [said.get(f"x-forwarded-{name}", "") for name in ("for", "proto", "host")]
    line = " ".join([handler.command, handler.path, said["host"], *told])
    reply(handler, line.encode() + b"\n" + body_of(handler))


def test_a_request_arrives_whole_and_says_where_it_came_from(caddy: CaddyServer) -> None:
    body = os.urandom(3_000_000)
    lies = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil"}
    with upstream(echo) as port:
        route(caddy, port)
        answer = caddy.request(HOST, "/a%20b?c=d", method="POST", body=body, headers=lies)

    head, got = answer.body.split(b"\n", 1)
    assert head.decode() == f"POST /a%20b?c=d {HOST} 127.0.0.1 https {HOST}"
    assert got == body


def test_an_event_is_passed_on_at_once_and_survives_a_write(caddy: CaddyServer) -> None:
    events: queue.Queue[bytes] = queue.Queue()

    def stream(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        while event := events.get(timeout=20):
            handler.wfile.write(event)
        handler.close_connection = True

    with upstream(stream) as port:
        route(caddy, port)
        connection = caddy.connect(HOST)
        connection.request("GET", "/events")
        answer = connection.getresponse()
        events.put(b"data: 1\n")
        first = answer.readline()
        route(caddy, port, port)
        events.put(b"data: 2\n")
        second = answer.readline()
        events.put(b"")
        connection.close()

    assert (first, second) == (b"data: 1\n", b"data: 2\n")


def test_a_service_learns_that_its_client_has_gone(caddy: CaddyServer) -> None:
    gone = threading.Event()

    def stream(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.wfile.write(b"data: 1\n")
        handler.connection.settimeout(20)
        if handler.connection.recv(1) == b"":
            gone.set()
        handler.close_connection = True

    with upstream(stream) as port:
        route(caddy, port)
        connection = caddy.connect(HOST)
        connection.request("GET", "/events")
        answer = connection.getresponse()
        assert answer.readline() == b"data: 1\n"
        answer.close()
        connection.close()

        until(gone.is_set, what="the service sees the end of its client")


def test_a_request_waits_for_a_service_that_starts_again(caddy: CaddyServer) -> None:
    port = free_port()
    route(caddy, port)
    connection = caddy.connect(HOST)
    connection.request("POST", "/order", body=b"one dog", headers={"Host": HOST})
    with upstream(echo, port=port):
        answer = connection.getresponse()
        body = answer.read()
        connection.close()

    assert answer.status == 200
    assert body.endswith(b"\none dog")


def test_a_service_that_stays_away_is_a_bad_gateway(caddy: CaddyServer) -> None:
    route(caddy, free_port())

    assert caddy.request(HOST).status == 502


def test_a_websocket_outlives_a_write_from_caddy_2_7_on(caddy: CaddyServer) -> None:
    async def parrot(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def talk() -> None:
        async with serve(parrot, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await asyncio.to_thread(route, caddy, port)
            async with websocket(caddy, HOST) as talk, asyncio.timeout(20):
                await talk.send("before")
                assert await talk.recv() == "before"
                await asyncio.to_thread(route, caddy, port, port)
                if caddy.version >= (2, 7):
                    await talk.send("after")
                    assert await talk.recv() == "after"
                else:  # every write ends them there: why an unchanged table must not be written
                    with pytest.raises(ConnectionClosed):
                        await talk.recv()

    asyncio.run(talk())


class _Store(SimpleHTTPRequestHandler):
    """A program that serves its files with the times they have in the store."""

    def log_message(self, *_: object) -> None:
        pass


def test_a_service_that_serves_from_the_store_is_never_stale(caddy: CaddyServer, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    copies: list[dict[str, str]] = [
        {"If-Modified-Since": EPOCH},
        {"If-Modified-Since": EPOCH, "If-None-Match": 'W/"3-1"'},
        {},
    ]
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Store, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        route(caddy, server.server_port)
        for content in (b"one", b"two"):
            page.write_bytes(content)
            os.utime(page, (1, 1))
            for copy in copies:
                answer = caddy.request(HOST, headers=copy)
                assert (answer.status, answer.body) == (200, content)
                assert "last-modified" not in answer.headers
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_what_a_service_says_of_its_own_answers_is_left_alone(caddy: CaddyServer) -> None:
    date = "Tue, 05 Nov 2024 10:00:00 GMT"

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if (
            handler.headers.get("If-None-Match") == '"v1"'
            and handler.headers.get("If-Modified-Since") == date
        ):
            handler.send_response(304)
            handler.end_headers()
        else:
            headers = {"ETag": '"v1"', "Last-Modified": date, "Cache-Control": "max-age=60"}
            reply(handler, b"<p>", Content_Type="text/html", **headers)

    with upstream(answer) as port:
        route(caddy, port)
        first = caddy.request(HOST)
        again = caddy.request(HOST, headers={"If-None-Match": '"v1"', "If-Modified-Since": date})

    assert (first.headers["etag"], first.headers["last-modified"]) == ('"v1"', date)
    assert (first.headers["cache-control"], again.status) == ("max-age=60", 304)
