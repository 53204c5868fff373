"""Write Caddy's route table from the deployments. Pure: dictionaries in, dictionaries out.

The order is: routes of others, what holds for all of Kennel's, Kennel itself, services, sites, the rule
that serves every site, the catch-all. Each of Kennel's has an ``@id`` that begins with ``kennel-``.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kennel_core.caddy_config import CATCH_ALL, Route, older

PREFIX = "kennel-"

TRY_FOR = "5s"  # how long a request waits for a service that refuses connections
TRY_EVERY = "100ms"
STREAMS_LIVE = "5m"  # how long a WebSocket outlives the route it came through
OWN_BODY_MAX = 4 * 1024 * 1024  # bytes; above Kennel's own limit, so that Kennel says what was wrong

# Nix gives every file the time 1, so these say "unchanged" of any two files of one size.
FROZEN_TIME = "Thu, 01 Jan 1970 00:00:0*"

# A name that carries a hash of its content: a directory that a bundler keeps for such names, eight or more
# hex digits, or Vite's eight characters. Letters alone or digits alone may be a word or a date.
HASHED_DIRECTORIES = ("/_app/immutable/*", "/_astro/*", "/_next/static/*", "/_nuxt/*")
HASHED_NAME = (
    r"[.-][0-9a-f]{8,64}(\.chunk)?\.[a-z0-9]+(\.map)?$|^/assets/.*-[A-Za-z0-9_-]{8}\.[a-z0-9]+(\.map)?$"
)
PLAIN_NAME = r"[.-]([A-Za-z_-]+|[0-9_-]+)(\.chunk)?\.[a-z0-9]+(\.map)?$"

# A missing file of these kinds is a 404 also in an SPA: a page in place of a script breaks worse.
ASSET = (
    r"(?i)\.(avif|bmp|css|csv|cur|eot|gif|gz|ico|jpe?g|js|json|m4a|map|md|mjs|mp3|mp4|oga|ogg|ogv|otf|pdf|png"
    r"|svg|ttf|txt|wasm|wav|webm|webmanifest|webp|woff2?|xml|zip)$"
)


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
class Own:
    """Kennel's own host. `web` and `follow` are the two processes, HOST:PORT."""

    domain: str
    web: str
    follow: str


def table(entries: Iterable[Proxy | Files], own: Own | None = None) -> list[Route]:
    """Give all of Kennel's routes. The same entries give the same table, in whatever order they come."""
    ordered = sorted(entries, key=lambda entry: entry.id)
    services = [_service(entry) for entry in ordered if isinstance(entry, Proxy)]
    sites = [_site(entry) for entry in ordered if isinstance(entry, Files)]
    shared = [_every_site()] if sites else []
    return [_frozen_times(), *([_own(own)] if own else []), *services, *sites, *shared, _catch_all()]


def merged(current: Sequence[Route], wanted: Sequence[Route]) -> list[Route] | None:
    """Put `wanted` in the place of Kennel's routes; None when `current` already says so.

    Routes that are not Kennel's are kept, first, in their order. A table that Caddy 2.6 could only take
    in its own words counts as equal.
    """
    new = [*(route for route in current if not is_ours(route)), *wanted]
    return None if list(current) in (new, older(new)) else new


def is_ours(route: Route) -> bool:
    """Tell whether Kennel wrote the route."""
    return str(route.get("@id", "")).startswith(PREFIX)


def entries(current: Iterable[Route]) -> dict[int, Proxy | Files]:
    """Read back what `table` wrote, by deployment id: what each deployment's hosts lead to now."""
    found = (_read(route) for route in current)
    return {entry.id: entry for entry in found if entry}


def _read(route: Route) -> Proxy | Files | None:
    name = re.fullmatch(rf"{PREFIX}(\d+)", str(route.get("@id", "")))
    if name is None:
        return None
    try:
        hosts = tuple(route["match"][0]["host"])
        handler = route["handle"][0]
        if handler["handler"] == "vars":
            return Files(hosts, handler["root"], handler["kennel_site"] == "spa", int(name[1]))
        return Proxy(hosts, int(handler["upstreams"][0]["dial"].rpartition(":")[2]), int(name[1]))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None  # somebody changed it by hand: to be written anew


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
    }


def _service(entry: Proxy) -> Route:
    return _route(entry.id, entry.hosts, _proxy(f"127.0.0.1:{entry.port}"))


def _site(entry: Files) -> Route:
    kind = "spa" if entry.spa else "files"
    tag = hashlib.sha256(f"{kind} {entry.root}".encode()).hexdigest()[:16]
    site = {"handler": "vars", "root": entry.root, "kennel_site": kind, "kennel_tag": tag}
    return _route(entry.id, entry.hosts, site, terminal=False)


def _own(own: Own) -> Route:
    """Route Kennel's host. A request is read whole first, so that a slow upload holds no worker."""
    buffered = {"request_buffers": OWN_BODY_MAX}
    routes = [
        {"match": [{"path": ["/internal", "/internal/*"]}], "handle": [_error(404)], "terminal": True},
        {
            "match": [{"query": {"follow": ["true"]}}],
            "handle": [_proxy(own.follow) | buffered],
            "terminal": True,
        },
        {"handle": [{"handler": "request_body", "max_size": OWN_BODY_MAX}, _proxy(own.web) | buffered]},
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


def _every_site() -> Route:
    """Serve the files of the site whose variables were set by the route of its host.

    One ETag stands for all files of one store path; Caddy's own are made of size and time.
    """
    there: Route = {"file": {"try_files": ["{http.request.uri.path}", "{http.request.uri.path}/index.html"]}}
    hashed: list[Route] = [
        {"path": list(HASHED_DIRECTORIES)},
        {"path_regexp": {"pattern": HASHED_NAME}, "not": [{"path_regexp": {"pattern": PLAIN_NAME}}]},
    ]
    spa: Route = {"vars": {"kennel_site": ["spa"]}}
    page: list[Route] = [
        spa | {"not": [{"path_regexp": {"pattern": ASSET}}]},
        spa | {"header": {"Accept": ["*text/html*"]}},
    ]
    routes: list[Route] = [
        _unchanged(),
        {"match": [{"header": {"If-Range": []}}], "handle": [_request_without("If-Range", "Range")]},
        {"handle": _fresh()},
        {
            "match": [{"path_regexp": {"pattern": r"/\."}, "not": [{"path": ["/.well-known/*"]}]}],
            "handle": [_error(404)],
        },
        {
            "match": [there | option for option in hashed],
            "handle": [_cache("public, max-age=31536000, immutable")],
        },
        {"match": [there], "handle": [_file_server()], "terminal": True},
        {"match": page, "handle": [_rewrite("/index.html"), _file_server()], "terminal": True},
        {
            "match": [{"file": {"try_files": ["/404.html"]}}],
            "handle": [_rewrite("/404.html"), _file_server() | {"status_code": 404}],
            "terminal": True,
        },
        {"handle": [_error(404)]},
    ]
    return {
        "@id": f"{PREFIX}sites",
        "match": [{"vars": {"kennel_site": ["files", "spa"]}}],
        "handle": [{"handler": "subroute", "routes": routes}],
        "terminal": True,
    }


TAG = 'W/"{http.vars.kennel_tag}"'


def _unchanged() -> Route:
    """Answer 304 to who has this very build already."""
    return {
        "match": [
            {"method": ["GET", "HEAD"], "header": {"If-None-Match": ['*"{http.vars.kennel_tag}"*']}},
        ],
        "handle": [
            {
                "handler": "static_response",
                "status_code": 304,
                "headers": {"Etag": [TAG], "Cache-Control": ["no-cache"], "Vary": ["Accept-Encoding"]},
            }
        ],
        "terminal": True,
    }


def _fresh() -> list[Route]:
    return [
        _request_without("If-Match", "If-Modified-Since", "If-None-Match", "If-Unmodified-Since"),
        _cache("no-cache"),
        {
            "handler": "headers",
            "response": {"delete": ["Last-Modified"], "set": {"Etag": [TAG]}, "deferred": True},
        },
        {"handler": "encode", "encodings": {"gzip": {}, "zstd": {}}, "prefer": ["zstd", "gzip"]},
    ]


def _request_without(*names: str) -> Route:
    return {"handler": "headers", "request": {"delete": list(names)}}


def _cache(policy: str) -> Route:
    return {"handler": "headers", "response": {"set": {"Cache-Control": [policy]}}}


def _rewrite(path: str) -> Route:
    return {"handler": "rewrite", "uri": path}


def _file_server() -> Route:
    return {"handler": "file_server", "index_names": ["index.html"]}


def _error(status: int) -> Route:
    return {"handler": "error", "status_code": status}


def _catch_all() -> Route:
    answer = {
        "handler": "static_response",
        "status_code": 404,
        "headers": {"Cache-Control": ["no-store"]},
        "body": "No deployment has this host name.\n",
    }
    return {"@id": CATCH_ALL, "handle": [answer], "terminal": True}
