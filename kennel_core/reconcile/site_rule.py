"""How Caddy serves the files of sites. Pure.

Nix gives every file the time 1, so Caddy's own Last-Modified and ETag (time and size) say "unchanged" of any
two files of one size. Here one ETag stands for a whole store path, whose content never changes.
"""

from kennel_core.caddy_config import Route

# A name that carries a hash of its content: a directory that a bundler keeps for such names, eight or more
# hex digits, or Vite's eight characters. Letters alone or digits alone may be a word or a date.
HASHED_DIRECTORIES = ("/_app/immutable/*", "/_astro/*", "/_next/static/*", "/_nuxt/*")
HASHED_NAME = r"[.-][0-9a-f]{8,64}\.[a-z0-9]+$|^/assets/.*-[A-Za-z0-9_-]{8}\.[a-z0-9]+$"
PLAIN_NAME = r"[.-]([A-Za-z_-]+|[0-9_-]+)\.[a-z0-9]+$"

# A missing file of these kinds is a 404 also in an SPA: a page in place of a script breaks worse.
ASSET = (
    r"(?i)\.(avif|bmp|css|csv|cur|eot|gif|gz|ico|jpe?g|js|json|m4a|map|md|mjs|mp3|mp4|oga|ogg|ogv|otf|pdf|png"
    r"|svg|ttf|txt|wasm|wav|webm|webmanifest|webp|woff2?|xml|zip)$"
)

# Both are set once for a request, so what is sent and what it is called never are of two builds.
SHOWN = '"{http.vars.kennel_site}:{http.vars.root}"'
TAG = f"W/{SHOWN}"


def variables(root: str, *, spa: bool) -> Route:
    """Say which files a host shows, for the rule that serves them. `root` may be a placeholder."""
    return {"handler": "vars", "root": root, "kennel_site": "spa" if spa else "files"}


def rule(name: str) -> Route:
    """Serve every site whose variables were set by the route of its host."""
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
        {"match": [{"vars": {"root": [""]}}], "handle": [error(503)]},  # else Caddy's own directory
        _only_reading(),
        _unchanged(),
        {"match": [{"header": {"If-Range": []}}], "handle": [_request_without("If-Range", "Range")]},
        {"handle": _fresh()},
        {
            "match": [{"path_regexp": {"pattern": r"/\."}, "not": [{"path": ["/.well-known/*"]}]}],
            "handle": [error(404)],
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
        {"handle": [error(404)]},
    ]
    return {
        "@id": name,
        "match": [{"vars": {"kennel_site": ["files", "spa"]}}],
        "handle": [{"handler": "subroute", "routes": routes}],
        "terminal": True,
    }


def error(status: int) -> Route:
    """Answer with a status and no body."""
    return {"handler": "error", "status_code": status}


def _only_reading() -> Route:
    """Refuse what no file can take; Caddy 2.6 would answer a POST with the file."""
    refusal = {"handler": "static_response", "status_code": 405, "headers": {"Allow": ["GET, HEAD"]}}
    return {"match": [{"not": [{"method": ["GET", "HEAD"]}]}], "handle": [refusal], "terminal": True}


def _unchanged() -> Route:
    """Answer 304 to who has this very build already."""
    return {
        "match": [{"header": {"If-None-Match": [f"*{SHOWN}*"]}}],
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
