"""What Kennel expects Caddy to run before the first route is written. Pure.

Caddy's JSON differs between generations: 2.8 replaced `ask` by a `permission` module (newer ones still know
`ask`, but not beside a policy of one's own), and 2.7 brought `stream_close_delay` and `request_buffers`. An
unknown field makes Caddy refuse the whole configuration.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Route = dict[str, Any]

CATCH_ALL = "kennel-catch-all"
PERMISSION_SINCE = (2, 8)

NOT_YET: Route = {
    "@id": CATCH_ALL,
    "handle": [
        {
            "handler": "static_response",
            "status_code": 503,
            "headers": {"Cache-Control": ["no-store"], "Retry-After": ["5"]},
            "body": "Kennel has not written its routes yet.\n",
        }
    ],
    "terminal": True,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """Where one Caddy listens and what it asks. Addresses are Caddy's: ``:443``, ``127.0.0.1:8443``.

    `admin` is ``unix//PATH`` or ``HOST:PORT``; `ask` is the URL of `/internal/caddy/check-domain`. With
    `internal` certificates come from Caddy's own authority, whose root is
    ``{storage}/pki/authorities/local/root.crt``; else from the public one.
    """

    admin: str
    ask: str
    https: str = ":443"
    http: str = ":80"
    https_port: int = 443  # where the redirect sends browsers
    server: str = "kennel"
    storage: str | None = None  # None: Caddy's data directory
    internal: bool = False


def version(text: str) -> tuple[int, int]:
    """Read major and minor from what ``caddy version`` or ``caddy build-info`` prints.

    A binary made by ``go install`` says "unknown" to the first and names its module in the second.

    Raises:
        ValueError: there is no version in `text`.
    """
    found = re.search(r"caddyserver/caddy/v2\s+v(\d+)\.(\d+)", text) or re.match(r"v?(\d+)\.(\d+)\.", text)
    if found is None:
        raise ValueError(f"no version of Caddy in {text[:80]!r}")
    return int(found[1]), int(found[2])


def base(options: Base, caddy: tuple[int, int]) -> dict[str, Any]:
    """Give the whole configuration for a Caddy of the version `caddy`.

    Automatic HTTPS is off, because it would look at each of a thousand hosts at every write; the TLS
    policy without subjects gets each certificate at the first handshake instead. HTTP/3 is off, because
    it needs an open UDP port.
    """
    redirect = "https://{http.request.host}" + (f":{options.https_port}" if options.https_port != 443 else "")
    config: dict[str, Any] = {
        "admin": {"listen": options.admin, "origins": ["localhost"]},
        "apps": {
            "http": {
                "grace_period": "10s",
                "servers": {
                    options.server: _server(options.https)
                    | {"tls_connection_policies": [{}], "routes": [NOT_YET]},
                    f"{options.server}-redirect": _server(options.http)
                    | {
                        "protocols": ["h1"],
                        "routes": [{"handle": [_redirect(redirect + "{http.request.uri}")]}],
                    },
                },
            },
            "tls": {"automation": _automation(options, caddy)},
        },
    }
    if options.internal:
        config["apps"]["pki"] = {"certificate_authorities": {"local": {"install_trust": False}}}
    if options.storage:
        config["storage"] = {"module": "file_system", "root": options.storage}
    return config


def older(routes: Sequence[Route]) -> list[Route]:
    """Say the same routes in words that Caddy 2.6 knows.

    `stream_close_delay` has no counterpart there: a write ends open WebSockets. `request_buffers` was
    `buffer_requests` and `max_buffer_size`.
    """
    return [_older(route) for route in routes]


def _older(value: Any) -> Any:
    if isinstance(value, list):
        return [_older(item) for item in value]
    if not isinstance(value, dict):
        return value
    known = {key: _older(item) for key, item in value.items() if key not in NEWER_FIELDS}
    if "request_buffers" in value:
        known |= {"buffer_requests": True, "max_buffer_size": value["request_buffers"]}
    return known


NEWER_FIELDS = frozenset({"stream_close_delay", "request_buffers"})


def _server(listen: str) -> dict[str, Any]:
    """Give a server its limits. `write_timeout` is long because it ends event streams, too."""
    return {
        "listen": [listen],
        "protocols": ["h1", "h2"],
        "automatic_https": {"disable": True},
        "read_header_timeout": "10s",
        "read_timeout": "10m",
        "write_timeout": "24h",
        "idle_timeout": "2m",
    }


def _redirect(location: str) -> dict[str, Any]:
    return {"handler": "static_response", "status_code": 308, "headers": {"Location": [location]}}


def _automation(options: Base, caddy: tuple[int, int]) -> dict[str, Any]:
    policy: dict[str, Any] = {"on_demand": True}
    if options.internal:
        policy["issuers"] = [{"module": "internal"}]
    if caddy < PERMISSION_SINCE:
        return {"on_demand": {"ask": options.ask}, "policies": [policy]}
    return {"on_demand": {"permission": {"module": "http", "endpoint": options.ask}}, "policies": [policy]}
