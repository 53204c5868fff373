"""Logging in to OpenBao or Vault: the credentials, and one token for all requests."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kennel_core.errors import Rejected, Unavailable
from kennel_core.provider import Provider, variable
from kennel_core.settings import Settings

SYSTEM = "openbao"
RENEW_AFTER = 2 / 3  # of a token's lease


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is JSON's object, None when there is none."""

    status: int
    body: dict[str, Any] | None

    @property
    def ok(self) -> bool:
        """Whether it is a success."""
        return 200 <= self.status < 300

    @property
    def said(self) -> str:
        """The status and OpenBao's own words, on one line."""
        errors = (self.body or {}).get("errors")
        words = "; ".join(map(str, errors)) if isinstance(errors, list) else ""
        return f"{self.status} {' '.join(words.split())[:300]}".strip()


class Login:
    """One token for all requests: had when it is first needed, renewed in time, had anew once it is refused.

    `client` is the hvac client that gets the token; `ask(operation, call)` sends one request of it and turns
    everything but an answer of OpenBao's own into `Unavailable`. Threads may use it at once.
    """

    def __init__(
        self,
        where: Provider,
        settings: Settings,
        environ: Mapping[str, str],
        client: Any,
        ask: Callable[[str, Callable[[], Answer]], Answer],
    ) -> None:
        self._where = where
        self._settings = settings
        self._environ = environ
        self._client = client
        self._ask = ask
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at: float | None = (
            None  # seconds, monotonic; None: it needs no renewal or cannot be renewed
        )
        self._ends_at: float | None = None
        self._failure: tuple[float, Unavailable] | None = None

    def token(self) -> str:
        """Give a token that should be good for a request, logging in or renewing it first where needed.

        Raises:
            Unavailable: OpenBao is down, slow or sealed.
            Rejected: it does not accept the credentials, or there are none.
        """
        asked = time.monotonic()
        with self._lock:
            if self._failure is not None and self._failure[0] >= asked:
                raise self._failure[1]  # somebody tried while this thread waited: do not wait as long again
            now = time.monotonic()
            if (
                not self._token
                or (self._ends_at is not None and now >= self._ends_at)
                or (self._renew_at is not None and now >= self._renew_at and not self._renew())
            ):
                try:
                    self._log_in()
                except Unavailable as exc:
                    self._failure = time.monotonic(), exc
                    raise
            return self._token

    def replace(self, refused: str) -> bool:
        """Have another token instead of a refused one; False when there is no other to be had.

        Raises:
            Unavailable: OpenBao is down, slow or sealed.
            Rejected: it does not accept the credentials.
        """
        with self._lock:
            if self._token == refused:
                self._log_in()
            return self._token != refused

    def _log_in(self) -> None:
        began = time.monotonic()
        mount, auth = self._where.auth_mount, self._client.auth
        if self._where.auth == "token":
            self._use(self._credential("token") or "")
            self._look_up(began)
            return
        if self._where.auth == "jwt":
            jwt, role = self._credential("jwt"), self._where.role
            answer = self._ask("log in", lambda: auth.jwt.jwt_login(role, jwt, use_token=False, path=mount))
        else:
            role_id, secret_id = self._credential("role_id"), self._credential("secret_id", needed=False)
            answer = self._ask(
                "log in", lambda: auth.approle.login(role_id, secret_id, use_token=False, mount_point=mount)
            )
        if not answer.ok:
            raise Rejected(
                SYSTEM,
                "log in",
                f"{answer.said}; check the {self._where.auth} credentials, and that auth/{mount} exists",
            )
        given = (answer.body or {}).get("auth") or {}
        if not isinstance(given.get("client_token"), str):
            raise Rejected(SYSTEM, "log in", "the answer holds no token; is multi-factor login asked for?")
        self._use(given["client_token"])
        self._lease(began, given.get("lease_duration"), renewable=bool(given.get("renewable")))

    def _look_up(self, began: float) -> None:
        """Learn when a given token ends; it is used as it is where it may not ask."""
        answer = self._ask("look up the token", self._client.auth.token.lookup_self)
        given = (answer.body or {}).get("data") or {} if answer.ok else {}
        self._lease(began, given.get("ttl"), renewable=bool(given.get("renewable")))

    def _renew(self) -> bool:
        began = time.monotonic()
        try:
            answer = self._ask("renew the token", self._client.auth.token.renew_self)
        except Unavailable:  # 500 for a token at its maximum, too: logging in tells the two apart
            return False
        if not answer.ok:
            return False
        given = (answer.body or {}).get("auth") or {}
        self._lease(began, given.get("lease_duration"), renewable=bool(given.get("renewable")))
        return True

    def _use(self, token: str) -> None:
        self._token = self._client.token = token

    def _lease(self, began: float, seconds: object, *, renewable: bool) -> None:
        """Note how long the token is good for; 0 is for ever."""
        lease = float(seconds) if isinstance(seconds, int | float) and seconds > 0 else None
        fixed = self._where.auth == "token"  # logging in anew would give the same one
        self._ends_at = began + lease if lease and not fixed else None
        self._renew_at = began + lease * RENEW_AFTER if lease and renewable else None

    def _credential(self, name: str, *, needed: bool = True) -> str | None:
        setting = f"secrets_{name}_file"
        path: Path | None = getattr(self._settings, setting)
        found: str | None
        if path is None:
            found = variable(self._where.scheme, name.upper(), self._environ)
        else:
            try:
                found = path.read_text().strip()
            except (OSError, UnicodeDecodeError) as exc:
                what = exc.strerror if isinstance(exc, OSError) else "is not text"
                raise Rejected(SYSTEM, "log in", f"KENNEL_{setting.upper()}: {path}: {what}") from None
        if not found and needed:
            raise Rejected(SYSTEM, "log in", f"set KENNEL_{setting.upper()} to a file that holds it")
        return found or None
