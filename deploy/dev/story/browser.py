"""A browser: asks Caddy over HTTPS, and everybody else as it is told."""

import http.client
import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from story import STACK, Surprise

REDIRECTS_MAX = 10


@dataclass(frozen=True)
class Page:
    """An answer, and where it came from in the end."""

    url: str
    status: int
    body: bytes
    headers: http.client.HTTPMessage = field(repr=False)

    @property
    def text(self) -> str:
        """Its content, as text."""
        return self.body.decode(errors="replace")


class Browser:
    """Trusts Caddy's internal authority, finds every host on this machine, and keeps cookies for each."""

    def __init__(self, env: dict[str, str]) -> None:
        self._port = int(env["KENNEL_HTTPS_PORT"])
        self._cookies: dict[str, dict[str, str]] = {}
        self.certificate = STACK / "caddy/pki/authorities/local/root.crt"
        self.repeated: list[str] = []  # hosts of the requests that were asked twice: an older Caddy reloads

    def url(self, host: str, path: str = "/") -> str:
        """Spell an address as Caddy serves it."""
        return f"https://{host}:{self._port}{path}"

    def get(self, host: str, path: str = "/") -> tuple[int, str]:
        """Fetch from Caddy, without following; gives status and text."""
        page = self._once("GET", self.url(host, path))
        return page.status, page.text

    def state(self, host: str) -> dict[str, Any]:
        """Fetch what an application says of itself."""
        status, text = self.get(host, "/api/state")
        if status != 200:
            raise Surprise(f"{host} answered {status}: {text.strip()}")
        found: dict[str, Any] = json.loads(text)
        return found

    def visit(self, url: str) -> Page:
        """Fetch, following redirects to wherever they lead."""
        return self._follow(self._once("GET", url))

    def submit(
        self, url: str, form: Mapping[str, str] | bytes, kind: str = "application/x-www-form-urlencoded"
    ) -> Page:
        """Send a form and follow where that leads."""
        body = form if isinstance(form, bytes) else urlencode(form).encode()
        return self._follow(self._once("POST", url, body, kind))

    def _follow(self, page: Page) -> Page:
        for _ in range(REDIRECTS_MAX):
            if page.status not in {301, 302, 303, 307}:
                return page
            page = self._once("GET", urljoin(page.url, page.headers["Location"]))
        raise Surprise(f"{page.url} redirects for ever")

    def _once(self, method: str, url: str, body: bytes | None = None, kind: str = "") -> Page:
        """Ask; repeats a request whose connection ended without an answer, as browsers do."""
        try:
            return self._ask(method, url, body, kind)
        except ConnectionError:
            self.repeated.append(url)
            return self._ask(method, url, body, kind)

    def _ask(self, method: str, url: str, body: bytes | None, kind: str) -> Page:
        parts = urlsplit(url)
        host, port = str(parts.hostname), parts.port or 443
        headers = {"Connection": "close"} | ({"Content-Type": kind} if kind else {})
        jar = self._cookies.setdefault(host, {})
        if jar:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
        with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
            connection = http.client.HTTPConnection(host, port, timeout=30)
            connection.sock = self._secured(plain, host) if parts.scheme == "https" else plain
            try:
                connection.request(
                    method, parts.path + (f"?{parts.query}" if parts.query else ""), body, headers
                )
                answer = connection.getresponse()
                content = answer.read()
            finally:
                connection.close()
        for header in answer.headers.get_all("Set-Cookie", []):
            for name, cookie in SimpleCookie(header).items():
                jar[name] = cookie.value
                if cookie["max-age"] == "0":
                    del jar[name]
        return Page(url, answer.status, content, answer.headers)

    def _secured(self, plain: socket.socket, host: str) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self.certificate)
        return context.wrap_socket(plain, server_hostname=host)

    @contextmanager
    def asking_steadily(self, host: str, at_once: int = 4) -> Iterator[Counter[str]]:
        """Ask without a pause from several threads; yields what was answered, counted."""
        seen: Counter[str] = Counter()
        lock, stop = threading.Lock(), threading.Event()

        def ask() -> None:
            while not stop.is_set():
                try:
                    status, body = self.get(host)
                    answer = (
                        f"version {json.loads(body)['version']}" if status == 200 else f"failed: {status}"
                    )
                except (OSError, ValueError) as exc:
                    answer = f"failed: {exc}"
                with lock:
                    seen[answer] += 1

        threads = [threading.Thread(target=ask) for _ in range(at_once)]
        for thread in threads:
            thread.start()
        try:
            yield seen
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def failures(seen: Counter[str]) -> int:
    return sum(count for answer, count in seen.items() if answer.startswith("failed"))
