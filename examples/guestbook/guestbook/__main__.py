"""A guestbook: entries in PostgreSQL, visits in Valkey, pictures in a bucket, logins through Keycloak.

GET  /                  the page
GET  /api/health        200 when every server that it was given answers, else 503 and which does not
GET  /api/state         what the page shows, as JSON
POST /entries           words=...
POST /pictures          a picture, as a form sends it
GET  /login, /logout    and /oauth2/callback, where Keycloak sends the browser back to
"""

import contextlib
import hashlib
import json
import os
import signal
import threading
from email import message_from_bytes
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import bucket
import cache
import database
import login
import page

PICTURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}
BODY_MAX = 5 * 1024 * 1024
COOKIE = "; Path=/; Secure; HttpOnly; SameSite=Lax"
HERE = urlsplit(os.environ.get("APP_URL", "http://localhost"))


def state(*, visit=False):
    return {
        "greeting": os.environ.get("GREETING", "Welcome"),
        "ref": os.environ.get("KENNEL_BRANCH", "?"),
        "environment": os.environ.get("KENNEL_ENVIRONMENT", "?"),
        "commit": os.environ.get("COMMIT_HASH", "?"),
        "pid": os.getpid(),
        "database": database.NAME,
        "cache": cache.NAME,
        "bucket": bucket.NAME,
        "login": {"client": login.CLIENT, "redirect_uri": HERE.geturl() + login.PATH},
        "entries": database.entries() if database.NAME else [],
        "visits": cache.visits(one_more=visit) if cache.NAME else 0,
        "pictures": bucket.keys() if bucket.NAME else [],
    }


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.attempt(self.get)

    def do_POST(self):
        self.attempt(self.post)

    def attempt(self, action):
        try:
            action()
        except OSError as error:
            print(f"{self.command} {self.path.partition('?')[0]}: {error}", flush=True)
            with contextlib.suppress(OSError):  # it may be the browser that is gone
                self.answer(502, b"A server that this needs does not answer. Please try again soon.\n")

    def get(self):
        url = urlsplit(self.path)
        if url.path == "/":
            self.answer(200, page.render(state(visit=True), self.user()).encode(), "text/html; charset=utf-8")
        elif url.path == "/api/health":
            self.health()
        elif url.path == "/api/state":
            self.answer_json(200, state() | {"user": self.user()})
        elif url.path.startswith("/pictures/"):
            self.picture(url.path.removeprefix("/pictures/"))
        elif url.path == "/login" and login.CLIENT:
            self.login()
        elif url.path == login.PATH and login.CLIENT:
            self.callback({name: values[0] for name, values in parse_qs(url.query).items()})
        elif url.path == "/logout":
            self.redirect("/", f"person={COOKIE}; Max-Age=0")
        else:
            self.answer(404, b"There is nothing here.\n")

    def post(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BODY_MAX:
            self.answer(413, b"At most 5 MiB.\n")
            return
        body = self.rfile.read(int(length))
        if self.path == "/entries" and database.NAME:
            words = parse_qs(body.decode(errors="replace")).get("words", [""])[0].replace("\0", "").strip()
            if words:
                database.add(self.user() or "somebody", words[:500])
            self.redirect("/")
        elif self.path == "/pictures" and bucket.NAME:
            self.upload(body)
        else:
            self.answer(404, b"There is nothing here.\n")

    def health(self):
        try:
            state()
        except OSError as error:
            self.answer_json(503, {"status": str(error)})
        else:
            self.answer_json(200, {"status": "ok"})

    def upload(self, body):
        form = message_from_bytes(f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode() + body)
        parts = [part.get_payload(decode=True) for part in form.walk() if part.get_filename()]
        if not parts or not kind(parts[0]):
            self.answer(415, b"A PNG, JPEG, GIF or WebP picture, please.\n")
            return
        bucket.put(hashlib.sha256(parts[0]).hexdigest()[:16], parts[0])
        self.redirect("/")

    def picture(self, key):
        content = bucket.get(key) if bucket.NAME and key.isalnum() else None
        if content is None:
            self.answer(404, b"There is no such picture.\n")
        else:
            self.answer(200, content, kind(content) or "application/octet-stream")

    def login(self):
        if self.headers["Host"] != HERE.netloc:  # the cookie must be of the host that Keycloak sends back to
            self.redirect(f"{HERE.geturl()}/login")
            return
        where, attempt = login.begin()
        self.redirect(where, f"attempt={login.sign('attempt', attempt, 600)}{COOKIE}; Max-Age=600")

    def callback(self, told):
        attempt = login.check("attempt", self.cookie("attempt"))
        name = login.finish(attempt, told.get("code", ""), told.get("state", ""))
        if name is None:
            self.answer(403, b"This login did not begin here: please try again.\n")
            return
        person = login.sign("person", name, login.HOURS * 3600)
        self.redirect("/", f"person={person}{COOKIE}", f"attempt={COOKIE}; Max-Age=0")

    def user(self):
        return login.check("person", self.cookie("person"))

    def cookie(self, name):
        try:
            return SimpleCookie(self.headers.get("Cookie", ""))[name].value
        except (CookieError, KeyError):
            return None

    def redirect(self, where, *cookies):
        self.answer(303, b"", "text/plain", [("Location", where), *(("Set-Cookie", cookie) for cookie in cookies)])

    def answer_json(self, status, content):
        self.answer(status, json.dumps(content).encode() + b"\n", "application/json")

    def answer(self, status, body, kind="text/plain; charset=utf-8", headers=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        path = getattr(self, "path", "").partition("?")[0]  # what is behind it may be a login's code
        if path != "/api/health":
            print(f"{self.command} {path} {args[1] if len(args) > 1 else ''}", flush=True)


def kind(content):
    return next((name for start, name in PICTURES.items() if content.startswith(start)), None)


class Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for the answers that are being given
    request_queue_size = 1024


def main():
    if database.NAME:
        database.prepare()
    server = Server((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"guestbook listens on {server.server_address[0]}:{server.server_port}", flush=True)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    print("stopped", flush=True)


main()
