"""Write Caddy's route table from the deployments. Pure: dictionaries in, dictionaries out.

What is live, a port or a store path, stands in the table itself, or where Caddy can read files, in one small
file for each deployment: then the table stays as it is when a new version takes over.

The order is: routes of others, what holds for all of Kennel's, Kennel itself, services, what sleeps, sites,
the rule that serves every site, the catch-all. Each of Kennel's has an ``@id`` that begins with ``kennel-``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kennel_core.caddy_config import CATCH_ALL, Route, older
from kennel_core.reconcile import site_rule

PREFIX = "kennel-"

TRY_FOR = "5s"  # how long a request waits for a service that refuses connections
TRY_EVERY = "100ms"
# How long Caddy keeps a connection that nobody uses. Shorter than Node's 5 s, so that Caddy never writes to
# one that the service is closing; and the connections of a service that drains then end with its requests.
IDLE = "1s"
STREAMS_LIVE = "5m"  # how long a WebSocket outlives the route it came through
OWN_BODY_MAX = 4_999_999  # bytes; above Kennel's own limit, so that Kennel says what was wrong
OWN_BODY_TOO_LONG = r"^0*([5-9][0-9]{6}|[1-9][0-9]{7,})$"  # a Content-Length above it

# What Nix gives every file as its time.
FROZEN_TIME = "Thu, 01 Jan 1970 00:00:0*"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A service: `hosts` go to 127.0.0.1:`port`. `id` is the deployment's."""

    hosts: tuple[str, ...]
    port: int
    id: int


@dataclass(frozen=True, slots=True)
class Files:
    """A site: `hosts` show the files below `root`, a store path, whose content never changes."""

    hosts: tuple[str, ...]
    root: str
    spa: bool
    id: int


@dataclass(frozen=True, slots=True)
class Asleep:
    """A service or site that sleeps: `hosts` say so, and how to wake it."""

    hosts: tuple[str, ...]
    id: int


Entry = Proxy | Files | Asleep


@dataclass(frozen=True, slots=True)
class Own:
    """Kennel's own host. `web` and `follow` are the two processes, HOST:PORT."""

    domain: str
    web: str
    follow: str


def table(entries: Iterable[Entry], own: Own | None = None, directory: Path | None = None) -> list[Route]:
    """Give all of Kennel's routes. The same entries give the same table, in whatever order they come.

    With a `directory` Caddy is to read there what `targets` gives, at every request (since 2.8).
    """
    ordered = sorted(entries, key=lambda entry: entry.id)
    services = [_service(entry, directory) for entry in ordered if isinstance(entry, Proxy)]
    sites = [_site(entry, directory) for entry in ordered if isinstance(entry, Files)]
    asleep = [_route(entry.id, entry.hosts, _sleeps()) for entry in ordered if isinstance(entry, Asleep)]
    shared = [site_rule.rule(f"{PREFIX}sites")] if sites else []
    return [_frozen_times(), *([_own(own)] if own else []), *services, *asleep, *sites, *shared, _catch_all()]


def targets(entries: Iterable[Entry]) -> dict[str, str]:
    """Give what each file must say, by name.

    The name tells the kind: a service that becomes a site, or a site an SPA, has another file, so that
    until the table is written its route leads to what it can serve.
    """
    return {_file(entry): _target(entry) for entry in entries if not isinstance(entry, Asleep)}


def merged(current: Sequence[Route], wanted: Sequence[Route]) -> list[Route] | None:
    """Put `wanted` in the place of Kennel's routes; None when `current` already says so.

    Routes that are not Kennel's are kept, first, in their order. A table that Caddy 2.6 could only take
    in its own words counts as equal.
    """
    new = [*(route for route in current if not is_ours(route)), *wanted]
    return None if list(current) == new or list(current) == older(new) else new


def is_ours(route: Route) -> bool:
    """Tell whether Kennel wrote the route."""
    return str(route.get("@id", "")).startswith(PREFIX)


def entries(current: Iterable[Route], files: Mapping[str, str] | None = None) -> dict[int, Entry]:
    """Read back what `table` wrote, by deployment id: what each deployment's hosts lead to now.

    `files` is what is in the directory. A route whose file is missing leads nowhere and is not listed.
    """
    found = (_read(route, files or {}) for route in current)
    return {entry.id: entry for entry in found if entry}


def _read(route: Route, files: Mapping[str, str]) -> Entry | None:
    name = re.fullmatch(rf"{PREFIX}(\d+)", str(route.get("@id", "")))
    if name is None:
        return None
    try:
        hosts = tuple(route["match"][0]["host"])
        handler = route["handle"][0]
        if handler == _sleeps():
            return Asleep(hosts, int(name[1]))
        if handler["handler"] == "vars":
            root = _followed(handler["root"], files)
            return Files(hosts, root, handler["kennel_site"] == "spa", int(name[1]))
        port = _followed(handler["upstreams"][0]["dial"].removeprefix("127.0.0.1:"), files)
        return Proxy(hosts, int(port), int(name[1]))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None  # somebody changed it by hand: to be written anew


def _file(entry: Proxy | Files) -> str:
    if isinstance(entry, Proxy):
        return f"{entry.id}.port"
    return f"{entry.id}.spa" if entry.spa else f"{entry.id}.files"


def _target(entry: Proxy | Files) -> str:
    return str(entry.port) if isinstance(entry, Proxy) else entry.root


def _led(entry: Proxy | Files, directory: Path | None) -> str:
    """Say in the table where the entry leads, or which file says so."""
    return f"{{file.{directory}/{_file(entry)}}}" if directory else _target(entry)


def _followed(said: str, files: Mapping[str, str]) -> str:
    file = re.fullmatch(r"\{file\.(?:.*/)?([^/]+)\}", said)
    return files[file[1]] if file else said


def _route(name: str | int, hosts: Iterable[str], *handle: Route, terminal: bool = True) -> Route:
    return {
        "@id": f"{PREFIX}{name}",
        "match": [{"host": sorted(hosts)}],
        "handle": list(handle),
        "terminal": terminal,
    }


def _proxy(address: str) -> Route:
    """Pass requests on.

    There is no `flush_interval`: Caddy flushes event streams and answers without a length at once by
    itself, and -1 would keep the request to the service alive after the client has gone.
    """
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": address}],
        "load_balancing": {"try_duration": TRY_FOR, "try_interval": TRY_EVERY},
        "stream_close_delay": STREAMS_LIVE,
        "transport": {"protocol": "http", "keep_alive": {"idle_timeout": IDLE}},
    }


def _service(entry: Proxy, directory: Path | None) -> Route:
    return _route(entry.id, entry.hosts, _proxy(f"127.0.0.1:{_led(entry, directory)}"))


def _site(entry: Files, directory: Path | None) -> Route:
    variables = site_rule.variables(_led(entry, directory), spa=entry.spa)
    return _route(entry.id, entry.hosts, variables, terminal=False)


def _own(own: Own) -> Route:
    """Route Kennel's host. A request is read whole first, so that a slow upload holds no worker."""
    limit = {"handler": "request_body", "max_size": OWN_BODY_MAX}
    too_long = {"header_regexp": {"Content-Length": {"pattern": OWN_BODY_TOO_LONG}}}
    follow: list[Route] = [{"query": {"follow": ["true"]}}, {"path": ["/deployments/*/logs"]}]
    web, following = (
        _proxy(address) | {"request_buffers": OWN_BODY_MAX} for address in (own.web, own.follow)
    )
    routes = [
        {
            "match": [{"path": ["/internal", "/internal/*"]}],
            "handle": [site_rule.error(404)],
            "terminal": True,
        },
        {"match": [too_long], "handle": [site_rule.error(413)], "terminal": True},  # 2.6 would say 502
        {"match": follow, "handle": [limit, following], "terminal": True},
        {"handle": [limit, web]},
    ]
    return _route("own", [own.domain], {"handler": "subroute", "routes": routes})


def _frozen_times() -> Route:
    """Take out validators that are made of the store's file time.

    A program that serves its files from the store sends such a Last-Modified and mostly an ETag made of
    time and size. A browser would keep the page for years, or be told "not modified" after a change.
    """
    ask = {"handler": "headers", "request": {"delete": ["If-Modified-Since", "If-None-Match"]}}
    answer = {
        "handler": "headers",
        "response": {
            "require": {"headers": {"Last-Modified": [FROZEN_TIME]}},
            "delete": ["Last-Modified", "Etag"],
            "deferred": True,
        },
    }
    stale = {"match": [{"header": {"If-Modified-Since": [FROZEN_TIME]}}], "handle": [ask]}
    return {"@id": f"{PREFIX}frozen-times", "handle": [{"handler": "subroute", "routes": [stale]}, answer]}


def _sleeps() -> Route:
    return {
        "handler": "static_response",
        "status_code": 503,
        "headers": {"Cache-Control": ["no-store"]},
        "body": "This preview sleeps: push to it, or run `kennel deployment start`.\n",
    }


def _catch_all() -> Route:
    answer = {
        "handler": "static_response",
        "status_code": 404,
        "headers": {"Cache-Control": ["no-store"]},
        "body": "No deployment has this host name.\n",
    }
    return {"@id": CATCH_ALL, "handle": [answer], "terminal": True}
