"""What an application needs, for each branch: the project `guestbook`."""

import html
import json
import re
import secrets
import struct
import zlib
from typing import Any

from story import Surprise, chapter, check, forge, say
from story.browser import Browser
from story.developer import project
from story.servers import held, left_out, put_secret
from story.stack import SERVERS, kennel, running_units, serve, wait_until

NAME, PREVIEW = "guestbook", "pr-1"  # the first of its repository
OWN = ("database", "cache", "bucket")  # as the application says what it has
PERSON = {"username": "alice", "password": "alice-password"}  # of keycloak-realm.json
HELLO = "hello-api-main.localhost"


class Guestbook:
    """The project, and the servers that it has here."""

    def __init__(self, browser: Browser, env: dict[str, str]) -> None:
        self.browser, self.env = browser, env
        self.servers = env["STACK_SERVERS"].split()
        self.project = project(NAME, forge.of(env))
        self.held: set[str] = set()  # by the servers, before there was a pull request
        self._hosts: dict[str, str] = {}
        self._do_without()

    def has(self, server: str) -> bool:
        """Tell whether a server runs here."""
        return server in self.servers

    def _do_without(self) -> None:
        """Let the work tree ask for nothing that this stack has not."""
        file = self.project.tree / "devenv.nix"
        for server in {"postgres", "garage"} - set(self.servers):
            file.write_text(file.read_text().replace(f"{server}.enable = true;", ""))
        if not self.has("openbao"):
            (self.project.tree / "secretspec.toml").unlink()

    def host(self, ref: str) -> str:
        """Give the host of the service, once it is deployed."""
        if ref not in self._hosts:
            self._hosts[ref] = self.project.host(NAME, ref)
        return self._hosts[ref]

    def state(self, ref: str) -> dict[str, Any]:
        """Fetch what the service says of itself."""
        return self.browser.state(self.host(ref))

    def path(self, ref: str, path: str) -> str:
        """Give the address of one of its pages."""
        return self.browser.url(self.host(ref), path)


def first_push(browser: Browser, env: dict[str, str]) -> Guestbook:
    chapter("An application that needs a database, a cache, a bucket, secrets and a login")
    wait_until(
        "waiting for " + (", ".join(s for s in SERVERS if s in env["STACK_SERVERS"].split()) or "nothing"),
        lambda: serve(env),
    )
    for line in left_out(env):
        say(f"left out: {line}")
    book = Guestbook(browser, env)
    if book.has("openbao"):
        _missing_secret(book)
    book.project.push("Open the guestbook")
    status, error = book.project.build("main")
    check(status == "done", f"the build is live {error}".strip())
    if book.has("openbao"):
        check(book.state("main")["greeting"] == "Good day", "it says the greeting that OpenBao holds")
    _sign(book, "main", "The first entry")
    _sign(book, "main", "Is it <b>safe</b>?")
    state = book.state("main")
    _show(state)
    check(state["cache"] and state["visits"] > 0, f"its cache counts visits: {state['visits']}")
    if book.has("postgres"):
        check(len(state["entries"]) == 2, "its database has two entries")
    if book.has("garage"):
        _upload(book)
    return book


def pull_request(book: Guestbook) -> None:
    chapter("A pull request has its own of everything")
    book.held = held(book.env)
    with (book.project.tree / "README.md").open("a") as readme:
        readme.write("\nIs this better?\n")
    book.project.propose("Try something")
    status, error = book.project.build(PREVIEW)
    check(status == "done", f"the preview is live {error}".strip())
    main, preview = book.state("main"), book.state(PREVIEW)
    _show(preview)
    for what in OWN:
        if main[what]:
            check(preview[what] and preview[what] != main[what], f"its {what} is another one")
    empty = not preview["entries"] and not preview["pictures"] and preview["visits"] == 0
    check(empty, "no entries, no pictures, no visits: it is empty")
    if book.has("openbao"):
        check(preview["greeting"] == "Welcome", "it does not read the secrets of prod")
    uri = preview["login"]["redirect_uri"]
    if book.has("keycloak"):
        check(f"keycloak: redirect URI {uri}" in held(book.env), f"logins may return to {uri}")
        check(preview["login"]["client"] != main["login"]["client"], "with another client than prod's")


def log_in(book: Guestbook) -> None:
    chapter("A login in the preview, as a browser does it")
    if not book.has("keycloak"):
        say("left out, without keycloak")
        return
    page = book.browser.visit(book.path(PREVIEW, "/login"))
    form = re.search(r'<form id="kc-form-login"[^>]* action="([^"]*)"', page.text)
    where = page.url.partition("?")[0]
    check(page.status == 200 and form, f"Keycloak asks who it is, at {where}")
    page = book.browser.submit(html.unescape(form[1] if form else ""), PERSON)
    check(page.status == 200 and page.url == book.path(PREVIEW, "/"), "it sends the browser back")
    check("Alice Example is logged in" in page.text, "Alice Example is logged in")
    _sign(book, PREVIEW, "I am who I am")
    if book.has("postgres"):
        check(book.state(PREVIEW)["entries"][0][0] == "Alice Example", "what she writes has her name")
    check(book.state("main")["user"] is None, "in prod she is not logged in")


def rotate(book: Guestbook) -> None:
    chapter("A secret is changed")
    if not book.has("openbao"):
        say("left out, without openbao")
        return
    units, others = running_units(), _others(book)
    before = book.state("main")
    put_secret(book.env, f"secretspec/{NAME}/prod/GREETING", "Good evening")
    wait_until("waiting until the page says it", lambda: book.state("main")["greeting"] == "Good evening")
    wait_until("waiting until the old unit has ended", lambda: len(running_units()) == len(units))
    after = book.state("main")
    now = running_units()
    say(f"was     {', '.join(units - now)}")
    say(f"is now  {', '.join(now - units)}")
    check(len(units - now) == 1 and after["pid"] != before["pid"], "this service was restarted")
    check(_others(book) == others, "and no other one: they are the same processes")
    check(after["entries"] == before["entries"], "it has what it had")


def close(book: Guestbook) -> None:
    chapter("The pull request is closed")
    state = book.state(PREVIEW)
    more = held(book.env) - book.held
    book.project.close(PREVIEW)
    wait_until("waiting until its resources are gone", lambda: not more & held(book.env))
    for part in sorted(more):
        say(f"gone  {part}")
    check(held(book.env) == book.held, "the servers hold exactly what they held before it")
    if book.has("keycloak"):
        page = book.browser.visit(_question(book, state["login"]))
        check(page.status == 400, "Keycloak sends nobody to its address any more")
    audit = json.loads(kennel("audit", "--json"))
    clean = not any(audit[what] for what in ("findings", "silent", "failed"))
    check(clean, "`kennel audit`: nothing is left over, and nothing is missing")


def _missing_secret(book: Guestbook) -> None:
    specification = book.project.tree / "secretspec.toml"
    arguments = ["secrets", "check", book.project.name, "prod", "--file", str(specification)]
    try:
        kennel(*arguments)
    except Surprise as exc:
        say(str(exc).partition(": ")[2].splitlines()[-1])
    else:
        raise Surprise("a secret that nobody has stored is not missed")
    for ref in ("prod", "preview", "dev"):
        put_secret(book.env, f"secretspec/{NAME}/{ref}/SIGNING_KEY", secrets.token_hex(32))
    put_secret(book.env, f"secretspec/{NAME}/prod/GREETING", "Good day")
    kennel(*arguments)
    check(True, "`kennel secrets check` names what is missing; once it is stored, nothing is")  # noqa: FBT003


def _sign(book: Guestbook, ref: str, words: str) -> None:
    if book.has("postgres"):
        page = book.browser.submit(book.path(ref, "/entries"), {"words": words})
        check(page.status == 200 and html.escape(words) in page.text, f"the page shows: {words}")


def _upload(book: Guestbook) -> None:
    picture = _png(96)
    head = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n'
    body = head + b"Content-Type: image/png\r\n\r\n" + picture + b"\r\n--x--\r\n"
    page = book.browser.submit(book.path("main", "/pictures"), body, "multipart/form-data; boundary=x")
    shown = re.findall(r'<img src="(/pictures/[^"]*)"', page.text)
    check(page.status == 200 and len(shown) == 1, "the page shows a picture")
    same = book.browser.visit(book.path("main", shown[0])).body == picture
    check(same, "it comes out of the bucket as it went in")


def _show(state: dict[str, Any]) -> None:
    for what in OWN:
        say(f"{what:<9} {state[what] or 'none'}")


def _others(book: Guestbook) -> list[int]:
    """Give the processes that have nothing to do with the secret."""
    return [json.loads(book.browser.get(HELLO)[1])["pid"], book.state(PREVIEW)["pid"]]


def _question(book: Guestbook, login: dict[str, str]) -> str:
    realm = f"{book.env['KENNEL_KEYCLOAK']}/realms/{book.env['KENNEL_KEYCLOAK_REALM']}"
    query = f"client_id={login['client']}&redirect_uri={login['redirect_uri']}&response_type=code"
    return f"{realm}/protocol/openid-connect/auth?{query}"


def _png(size: int) -> bytes:
    """Draw a picture: a square of colours."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(
        b"\0" + bytes(value for x in range(size) for value in (x * 255 // size, y * 255 // size, 160))
        for y in range(size)
    )
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
