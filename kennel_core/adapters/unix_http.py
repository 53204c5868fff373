"""HTTP over a Unix socket, for `requests`."""

import socket
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection


class UnixAdapter(HTTPAdapter):
    """Sends every request to the socket at `path`, whatever host the URL names.

    Raises what `requests` raises; the timeout of a request covers connecting and each read.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._pool = _Pool(path)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        """See `HTTPAdapter`."""
        return self._pool

    def close(self) -> None:
        """Close what is kept open."""
        super().close()
        self._pool.close()


def session(address: str) -> tuple[requests.Session, str]:
    """Give a session for ``unix:///PATH`` or ``http://HOST:PORT``, and the root of its URLs.

    The environment's proxies are not for it: they are for the world outside.
    """
    made = requests.Session()
    made.trust_env = False
    if not address.startswith("unix://"):
        return made, address.rstrip("/")
    made.mount("http://localhost", UnixAdapter(address.removeprefix("unix://")))
    return made, "http://localhost"


class _Pool(HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def _new_conn(self) -> HTTPConnection:
        connection = _Connection("localhost")
        connection.path = self._path
        return connection


class _Connection(HTTPConnection):
    path: str

    def _new_conn(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(self.timeout if isinstance(self.timeout, float | int) else None)
            made.connect(self.path)
        except OSError:
            made.close()
            raise
        return made
