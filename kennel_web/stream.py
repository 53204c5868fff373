"""Text that is sent while it is made, to people who follow a log."""

import socket
from collections.abc import Callable, Iterator

from flask import Response, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from kennel_web.context import context
from kennel_web.problems import problem

PLAIN = "text/plain; charset=utf-8"


def wanted() -> bool:
    """Tell whether the request has ``?follow=true``."""
    return request.args.get("follow", "") == "true"


def follow(make: Callable[[], Iterator[str]]) -> BaseResponse:
    """Stream what `make` yields, until it ends or the client goes away.

    The web process sends the client on to the follow process, because a follower would hold one of its few
    workers; that process answers 503 when its places are taken.
    """
    if not context().follow:
        return elsewhere()
    places = context().followers
    if not places.acquire(blocking=False):
        return problem(503, "too many logs are followed at present")
    try:
        texts = make()
    except BaseException:
        places.release()
        raise
    client: socket.socket | None = request.environ.get("gunicorn.socket")
    response = Response(_until_gone(texts, client), content_type=PLAIN)
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(places.release)
    return response


def elsewhere() -> BaseResponse:
    """Send the client on to the follow process."""
    return redirect(f"http://{_address()}{request.full_path}", 307)


def _until_gone(texts: Iterator[str], client: socket.socket | None) -> Iterator[bytes]:
    yield b""  # sends the headers, however long the first line takes
    for text in texts:
        if client is not None and _has_gone(client):
            return
        if text:
            yield text.encode()


def _has_gone(client: socket.socket) -> bool:
    """Tell whether the other side has closed: a write would show it only when there is something to write."""
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _address() -> str:
    """Give the follow process's address; where that is every interface, by the name the client used."""
    host, _, port = context().settings.follow_bind.rpartition(":")
    if host in {"0.0.0.0", "[::]"}:  # noqa: S104  # compared, not bound
        host = request.host.removesuffix(f":{request.environ['SERVER_PORT']}")
    return f"{host}:{port}"
