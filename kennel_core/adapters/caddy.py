"""Client for the part of Caddy's admin API that Kennel uses."""

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import requests

from kennel_core.adapters import unix_http
from kennel_core.caddy_config import NEWER_FIELDS, Route, older
from kennel_core.effects import Effect
from kennel_core.errors import Rejected, Unavailable

TIMEOUT_S = 10.0


class Caddy:
    """The route table of one HTTP server of one Caddy.

    `admin` is ``http://HOST:PORT`` or ``unix:///PATH``; `server` is the key under ``apps.http.servers``.
    Every call ends within about `timeout` seconds.
    """

    def __init__(self, admin: str, server: str = "kennel", timeout: float = TIMEOUT_S) -> None:
        self._admin = admin
        self._server = server
        self._timeout = timeout
        self._session, root = unix_http.session(admin)
        # Caddy replaces the admin listener at each reload: a connection kept open could be reset.
        self._session.headers["Connection"] = "close"
        self._url = f"{root}/config/apps/http/servers/{quote(server, safe='')}/routes"
        self._etag: str | None = None
        self.reads_files = False  # it knows ``{file.PATH}``: since 2.8, as `routes` finds out

    def routes(self) -> list[Route]:
        """Read the server's routes, in order, as Caddy has them.

        Raises:
            Unavailable: Caddy is down, silent or not itself.
            Rejected: it has no such server; its own message otherwise.
        """
        response = self._call("GET", "read the routes")
        try:
            routes = response.json()
        except requests.JSONDecodeError as exc:
            raise Unavailable("caddy", "read the routes", "the answer is not JSON") from exc
        if routes is None:
            raise self._no_server("read the routes")
        if not isinstance(routes, list):
            raise Rejected("caddy", "read the routes", "the answer is not a list of routes")
        self._etag = response.headers.get("Etag")
        self.reads_files = self._etag is not None  # 2.8 is also the first to send it
        return routes

    def replace_routes(self, routes: Sequence[Route]) -> None:
        """Make the server's routes exactly `routes`, in one write.

        Caddy reloads once, or not at all where nothing differs; where it refuses, all stays as it was. A
        Caddy older than 2.7 refuses fields it does not know and then gets the same routes without them.
        When the routes were changed by somebody else since `routes()` was called on this object, Caddy 2.8
        and newer refuses the write.

        Raises:
            Unavailable: Caddy is down or silent, or somebody else has just changed the routes.
            Rejected: Caddy refused; its message is in the error.

        Source: https://caddyserver.com/docs/api#patch-configpath
        """
        try:
            self._call("PATCH", "write the routes", list(routes))
        except Rejected as exc:
            if not _is_unknown_field(str(exc)):
                raise
            self._call("PATCH", "write the routes", older(routes))
        self._etag = None

    def _call(self, method: str, operation: str, body: object = None) -> requests.Response:
        headers = {"If-Match": self._etag} if method == "PATCH" and self._etag else {}
        try:
            with Effect("caddy write", acts=method != "GET"):
                response = self._session.request(
                    method, self._url, json=body, headers=headers, timeout=self._timeout
                )
        except requests.Timeout as exc:
            silence = f"no answer from {self._admin} within {self._timeout:g} s"
            raise Unavailable("caddy", operation, silence) from exc
        except requests.RequestException as exc:
            raise Unavailable("caddy", operation, f"cannot reach {self._admin}: {exc}; does it run?") from exc
        if response.ok:
            return response
        raise self._refusal(response, operation)

    def _refusal(self, response: requests.Response, operation: str) -> Unavailable | Rejected:
        message = _message(response)
        if response.status_code == 412:
            return Unavailable("caddy", operation, f"somebody else changed the routes meanwhile ({message})")
        if message is None:
            return Unavailable("caddy", operation, f"{response.status_code} {response.text.strip()[:200]}")
        if re.search(r"invalid traversal path|key does not exist", message):
            return self._no_server(operation)
        return Rejected("caddy", operation, f"{response.status_code} {message}")

    def _no_server(self, operation: str) -> Rejected:
        return Rejected("caddy", operation, f"no server '{self._server}': load deploy/caddy.json")


def _message(response: requests.Response) -> str | None:
    """Give Caddy's own words; None when the answer is not Caddy's.

    The status tells nothing: 2.6 answers 500 where 2.11 answers 400, 404 or 409.
    """
    try:
        answer: Any = response.json()
    except requests.JSONDecodeError:
        return None
    return answer["error"] if isinstance(answer, dict) and isinstance(answer.get("error"), str) else None


def _is_unknown_field(message: str) -> bool:
    return any(f'unknown field "{name}"' in message for name in NEWER_FIELDS)
