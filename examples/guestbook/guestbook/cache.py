"""A counter of visits, in Valkey: the few words of its protocol that are needed, over a Unix socket."""

import os
import socket
from urllib.parse import parse_qs, urlsplit

URL = os.environ.get("VALKEY_URL", "")  # redis+unix:///PATH?db=N
PREFIX = os.environ.get("VALKEY_PREFIX", "")  # where the server is shared

_url = urlsplit(URL)
NAME = _url.path


def _command(wire, *words):
    text = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
    wire.write("".join(text).encode())
    wire.flush()
    answer = wire.readline().decode().strip()
    if not answer or answer[0] not in "+:$":
        raise OSError(f"cache: {answer or 'it hung up'}")
    if answer[0] != "$":
        return answer[1:]
    size = int(answer[1:])
    return wire.read(size + 2)[:size].decode() if size >= 0 else None


def ask(*words):
    """Send one command; returns a text, or None for a key that is not there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(_url.path)
        with connection.makefile("rwb") as wire:
            if _url.password:
                _command(wire, "AUTH", _url.username, _url.password)
            number = parse_qs(_url.query).get("db", ["0"])[0]
            if number != "0":
                _command(wire, "SELECT", number)
            return _command(wire, *words)


def visits(*, one_more=False):
    """How many visits there were."""
    key = f"{PREFIX}visits"
    return int((ask("INCR", key) if one_more else ask("GET", key)) or 0)
