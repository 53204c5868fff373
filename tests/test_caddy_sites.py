"""Sites as a browser sees them, through real Caddys. Every file has the time 1, as in the Nix store."""

import gzip
import http.client
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kennel_core.reconcile.routes import Files
from tests.servers.caddy import Answer, CaddyServer
from tests.waiting import until

HOST = "docs.localhost"
EPOCH = "Thu, 01 Jan 1970 00:00:01 GMT"
PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FOREVER = "public, max-age=31536000, immutable"


def build(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Make a directory as a build leaves it in the store."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    for path in [root, *root.rglob("*")]:
        os.utime(path, (1, 1))
    return root


def show(caddy: CaddyServer, root: Path, *, spa: bool = False) -> None:
    caddy.ask.allowed.add(HOST)
    caddy.lead(Files((HOST,), str(root), spa, 1))


@pytest.fixture
def site(caddy: CaddyServer, tmp_path: Path) -> CaddyServer:
    root = build(
        tmp_path / "site",
        {
            "index.html": "<h1>home</h1>",
            "app.js": "console.log(1)",
            "docs/index.html": "<h1>docs</h1>",
            "empty/note.txt": "note",
            "big.txt": "0123456789" * 1000,
            ".env": "SECRET=1",
            ".git/config": "[core]",
            "docs/.htpasswd": "user",
            ".well-known/security.txt": "Contact: us",
            "with space.txt": "space",
        },
    )
    build(tmp_path / "outside", {"secret.txt": "outside"})
    show(caddy, root)
    return caddy


@pytest.mark.parametrize("spa", [False, True])
def test_another_build_of_the_same_sizes_is_seen_by_who_has_the_old_one(
    caddy: CaddyServer, tmp_path: Path, *, spa: bool
) -> None:
    old = build(tmp_path / "aaa", {"index.html": "one", "app.js": "old", "s/index.html": "111"})
    new = build(tmp_path / "bbb", {"index.html": "two", "app.js": "new", "s/index.html": "222"})
    paths = ["/", "/index.html", "/app.js", "/s/"] + (["/deep/link"] if spa else [])
    show(caddy, old, spa=spa)
    before = {path: caddy.request(HOST, path) for path in paths}
    assert {answer.body for answer in before.values()} == {b"one", b"old", b"111"}

    show(caddy, new, spa=spa)

    for path, answer in before.items():
        for conditions in _conditions(answer):
            again = caddy.request(HOST, path, headers=conditions)
            assert (again.status, again.body[:1]) in {(200, b"t"), (200, b"n"), (200, b"2")}, conditions


def _conditions(answer: Answer) -> list[dict[str, str]]:
    """Everything a browser or a cache may ask about its copy, also one from Caddy without Kennel."""
    own = {"If-None-Match": answer.headers["etag"]}
    caddys = {"If-None-Match": '"13"', "If-Modified-Since": EPOCH}  # time 1, size 3, base 36
    since = {"If-Modified-Since": answer.headers.get("last-modified", EPOCH)}
    later = {"If-Modified-Since": "Fri, 01 Jan 2038 00:00:00 GMT"}
    return [own, since, own | since, caddys, later, {"If-None-Match": '"13"'}]


def test_a_site_that_becomes_an_spa_is_seen_by_who_has_a_copy(caddy: CaddyServer, tmp_path: Path) -> None:
    root = build(tmp_path / "aaa", {"index.html": "home", "404.html": "lost"})
    show(caddy, root)
    before = caddy.request(HOST, "/")

    show(caddy, root, spa=True)

    again = caddy.request(HOST, "/", headers={"If-None-Match": before.headers["etag"]})
    assert (again.status, again.body) == (200, b"home")
    assert caddy.request(HOST, "/deep/link").body == b"home"


def test_no_copy_is_confirmed_and_no_page_named_wrongly_while_builds_change(
    caddy: CaddyServer, tmp_path: Path
) -> None:
    roots = [build(tmp_path / word, {"index.html": word}) for word in ("one", "two")]
    tags: dict[bytes, set[str]] = {b"one": set(), b"two": set()}
    confirmed: list[tuple[str, str]] = []
    done = threading.Event()
    show(caddy, roots[0])

    def ask() -> None:
        have = ""
        while not done.is_set():
            try:
                answer = caddy.request(HOST, headers={"If-None-Match": have} if have else {})
            except (ConnectionError, http.client.HTTPException):
                assert not caddy.reads_files
                continue
            if answer.status == 304:
                confirmed.append((have, answer.headers["etag"]))
            else:
                have = answer.headers["etag"]
                tags[answer.body].add(have)

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            for root in [*reversed(roots)] * 10:
                show(caddy, root)
                seen = len(confirmed)
                until(lambda seen=seen: len(confirmed) > seen or any(one.done() for one in asking))
        finally:
            done.set()
        for one in asking:
            one.result()

    assert [len(found) for found in tags.values()] == [1, 1]
    assert {have == told for have, told in confirmed} == {True}


def test_a_site_whose_file_is_missing_shows_nothing_at_all(site: CaddyServer, tmp_path: Path) -> None:
    site.ask.allowed.add("other.localhost")
    shown = build(tmp_path / "other", {"index.html": "other"})
    other = Files(("other.localhost",), str(shown), spa=False, id=2)
    own = Files((HOST,), str(tmp_path / "site"), spa=False, id=1)
    site.lead(own, other)
    if site.reads_files:
        site.kennel.remove_target("1.files")
        for path in ("/", "/caddy.json", "/admin.sock", "/etc/passwd", "/../../etc/passwd", "/root/"):
            answer = site.request(HOST, path)
            assert (answer.status, answer.body) == (503, b""), path
    assert site.request("other.localhost").body == b"other"

    assert site.lead(own, other) == site.reads_files
    assert site.request(HOST).body == b"<h1>home</h1>"


def test_the_same_build_is_not_sent_twice(site: CaddyServer) -> None:
    for path in ("/", "/app.js", "/docs/"):
        first = site.request(HOST, path)
        again = site.request(HOST, path, headers={"If-None-Match": f'"x", {first.headers["etag"]}'})

        assert (first.status, again.status, again.body) == (200, 304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert again.headers["cache-control"] == "no-cache"


def test_no_answer_carries_the_time_of_the_store(site: CaddyServer) -> None:
    for path in ("/", "/app.js", "/docs", "/missing"):
        assert "last-modified" not in site.request(HOST, path).headers


def test_a_page_and_a_plain_name_are_asked_for_again_each_time(site: CaddyServer) -> None:
    for path in ("/", "/app.js", "/docs/", "/missing.js"):
        assert site.request(HOST, path).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("path", "policy"),
    [
        ("assets/index-DkX8v2aB.js", FOREVER),
        ("assets/sub/logo-4sT_x-9Z.svg", FOREVER),
        ("static/js/main.3f2a9c1b.js", FOREVER),
        ("app-0123456789abcdef0123456789abcdef.css", FOREVER),
        ("_app/immutable/entry/start.js", FOREVER),
        ("_next/static/chunks/main.js", FOREVER),
        ("_astro/page.css", FOREVER),
        ("_nuxt/entry.js", FOREVER),
        ("assets/jquery-validate.js", "no-cache"),
        ("assets/Inter-SemiBold.woff2", "no-cache"),
        ("assets/photo-20240101.jpg", "no-cache"),
        ("report.20240101.pdf", "no-cache"),
        ("deadbeef.js", "no-cache"),
        ("main.js", "no-cache"),
        ("v1.2.3/app.js", "no-cache"),
    ],
)
def test_only_a_name_with_a_hash_is_kept_for_good(
    caddy: CaddyServer, tmp_path: Path, path: str, policy: str
) -> None:
    show(caddy, build(tmp_path / "aaa", {"index.html": "home", path: "x"}), spa=True)

    assert caddy.request(HOST, f"/{path}").headers["cache-control"] == policy

    show(caddy, build(tmp_path / "bbb", {"index.html": "home"}), spa=True)

    gone = caddy.request(HOST, f"/{path}", headers=PAGE)
    assert (gone.body, gone.headers["cache-control"]) == (b"home", "no-cache")


def test_a_deep_link_of_an_spa_shows_its_page(caddy: CaddyServer, tmp_path: Path) -> None:
    show(
        caddy, build(tmp_path / "spa", {"index.html": "home", "app.js": "js", "d/index.html": "d"}), spa=True
    )

    for path in ("/", "/deep/link", "/deep/link/?q=1", "/users/john.doe", "/v1.2/x", "/index.html"):
        answer = caddy.request(HOST, path)
        assert (answer.status, answer.body, answer.headers["content-type"]) == (
            200,
            b"home",
            "text/html; charset=utf-8",
        )
    assert caddy.request(HOST, "/app.js").body == b"js"
    assert caddy.request(HOST, "/d/").body == b"d"


def test_a_missing_file_of_an_spa_is_missing_unless_a_person_opens_it(
    caddy: CaddyServer, tmp_path: Path
) -> None:
    show(caddy, build(tmp_path / "spa", {"index.html": "home"}), spa=True)

    for path in ("/assets/index-DkX8v2aB.js", "/logo.PNG", "/data.json", "/a/b.css", "/f.woff2"):
        assert caddy.request(HOST, path, headers={"Accept": "*/*"}).status == 404
        assert caddy.request(HOST, path, headers=PAGE).body == b"home"


def test_a_missing_page_of_a_site_is_404_and_shows_the_sites_own_page(
    caddy: CaddyServer, tmp_path: Path
) -> None:
    show(caddy, build(tmp_path / "plain", {"index.html": "home"}))
    bare = caddy.request(HOST, "/missing", headers=PAGE)
    assert (bare.status, bare.body) == (404, b"")

    show(caddy, build(tmp_path / "own", {"index.html": "home", "404.html": "lost?"}))
    own = caddy.request(HOST, "/missing", headers=PAGE)
    assert (own.status, own.body) == (404, b"lost?")


def test_a_directory_shows_its_index_and_never_a_listing(site: CaddyServer) -> None:
    assert site.request(HOST, "/docs/").body == b"<h1>docs</h1>"
    moved = site.request(HOST, "/docs")
    assert (moved.status, moved.headers["location"]) == (308, "/docs/")
    for path in ("/empty", "/empty/"):
        answer = site.request(HOST, path)
        assert answer.status in {308, 404}
        assert b"note" not in answer.body


def test_head_says_what_get_would_send(site: CaddyServer) -> None:
    get = site.request(HOST, "/big.txt")
    head = site.request(HOST, "/big.txt", method="HEAD")

    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(get.body))
    assert head.headers["etag"] == get.headers["etag"]


def test_a_site_takes_no_posts(site: CaddyServer) -> None:
    assert site.request(HOST, "/", method="POST", body=b"x").status == 405


@pytest.mark.parametrize(
    "path",
    [
        "/../outside/secret.txt",
        "/..%2foutside%2fsecret.txt",
        "/%2e%2e/outside/secret.txt",
        "/docs/../../outside/secret.txt",
        "/docs/%2e%2e/%2e%2e/outside/secret.txt",
        "/..\\outside\\secret.txt",
        "/%5c..%5coutside%5csecret.txt",
        "//../outside/secret.txt",
        "/....//outside/secret.txt",
        "/%00/../outside/secret.txt",
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/docs/.htpasswd",
        "/.well-known/../.env",
        "/.well-known/%2e%2e/.env",
        "/.well-known/..%2f.env",
        "//.env",
    ],
)
@pytest.mark.parametrize("spa", [False, True])
def test_nothing_outside_and_nothing_hidden_is_served(
    site: CaddyServer, tmp_path: Path, path: str, *, spa: bool
) -> None:
    show(site, tmp_path / "site", spa=spa)

    answer = site.request(HOST, path)

    assert answer.status in {400, 404} or (spa and answer.body == b"<h1>home</h1>")


def test_the_well_known_directory_and_encoded_names_are_served(site: CaddyServer) -> None:
    assert site.request(HOST, "/.well-known/security.txt").body == b"Contact: us"
    assert site.request(HOST, "/with%20space.txt").body == b"space"


def test_answers_are_compressed_for_who_can_read_it(site: CaddyServer) -> None:
    packed = site.request(HOST, "/big.txt", headers={"Accept-Encoding": "gzip"})
    plain = site.request(HOST, "/big.txt")
    modern = site.request(HOST, "/big.txt", headers={"Accept-Encoding": "gzip, br, zstd"})

    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(packed.body) == plain.body
    assert modern.headers["content-encoding"] == "zstd"


def test_parts_of_a_file_are_served_but_never_joined_to_another_build(site: CaddyServer) -> None:
    part = site.request(HOST, "/big.txt", headers={"Range": "bytes=5-8"})
    assert (part.status, part.body) == (206, b"5678")

    for copy in (EPOCH, '"17ps"', part.headers["etag"]):
        whole = site.request(HOST, "/big.txt", headers={"Range": "bytes=5-8", "If-Range": copy})
        assert (whole.status, len(whole.body)) == (200, 10_000)
