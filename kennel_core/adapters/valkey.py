"""A Valkey or Redis server: its users, its numbered databases, and whether it answers.

Sources: https://valkey.io/topics/acl, https://valkey.io/commands/.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import redis

from kennel_core.effects import Effect
from kennel_core.errors import Rejected, Unavailable

SYSTEM = "valkey"
CONNECT_TIMEOUT_S = 2.0
TIMEOUT_S = 5.0
BATCH = 1000  # keys
CHANGES = {"UNLINK", "FLUSHDB", ("ACL", "SETUSER"), ("ACL", "DELUSER"), ("CLIENT", "KILL")}


class Valkey:
    """One server. `url` is ``redis://[USER@]HOST:PORT``, ``rediss://...`` or ``unix://PATH``.

    One connection is opened by the first call, at database 0. An object belongs to one thread.

    Every method raises:
        Unavailable: the server is down, slow, loading its data, or a replica.
        Rejected: it does not let us in, or refuses a command; says what is missing.
    """

    def __init__(self, url: str, password_file: Path | None = None, timeout: float = TIMEOUT_S) -> None:
        self.url = url
        self._password_file = password_file
        self._timeout = timeout
        self._client: redis.Redis | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def ping(self) -> None:
        """Ask for an answer."""
        self._call("ping", "PING")

    def version(self) -> tuple[int, int]:
        """Give the version of Redis that the server is compatible with, such as (7, 2)."""
        major, minor = self._information("server")["redis_version"].split(".")[:2]
        return int(major), int(minor)

    # --- users

    def users(self) -> frozenset[str]:
        """Name the users that may log in."""
        lines = (line.split() for line in self._call("list users", "ACL", "LIST"))
        return frozenset(words[1] for words in lines if words[2] == "on")

    def password_digests(self, user: str) -> frozenset[str] | None:
        """Give the SHA-256 of each password of a user, in hex digits; None when there is no such user."""
        for line in self._call(f"look for user {user}", "ACL", "LIST"):
            words = line.split()
            if words[1] == user:
                return frozenset(word[1:] for word in words if re.fullmatch("#[0-9a-f]{64}", word))
        return None

    def set_user(self, user: str, password: str, *rules: str) -> None:
        """Make a user, or make it anew, with these rules alone; its connections stay."""
        secret = f"#{digest(password)}"
        self._call(f"make user {user}", "ACL", "SETUSER", user, "reset", "on", secret, *rules)

    def shut_out(self, user: str) -> None:
        """Let a user log in no more, and end its connections; there must be such a user."""
        self._call(f"shut out user {user}", "ACL", "SETUSER", user, "off")
        self._call(f"disconnect user {user}", "CLIENT", "KILL", "USER", user)

    def delete_user(self, user: str) -> None:
        """Delete a user; quiet when there is none."""
        self._call(f"delete user {user}", "ACL", "DELUSER", user)

    # --- keys

    def delete_keys(self, prefix: str) -> None:
        """Delete every key that begins with `prefix`, which is free of wildcards, in every database."""
        operation = f"delete keys {prefix}*"
        for number in sorted(self.used_databases()):
            self._call(operation, "SELECT", number)
            cursor = 0
            while True:
                cursor, keys = self._call(operation, "SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", BATCH)
                if keys:
                    self._call(operation, "UNLINK", *keys)
                if int(cursor) == 0:
                    break

    # --- numbered databases

    def databases(self) -> int:
        """Tell how many databases there are; their numbers begin at 0."""
        answer = self._call("read the setting databases", "CONFIG", "GET", "databases")
        return int(dict(answer)["databases"] if isinstance(answer, dict) else answer[1])

    def used_databases(self) -> frozenset[int]:
        """Give the numbers of the databases that have keys in them."""
        self.ping()  # a server that is still loading its data refuses this, and would name too few
        return frozenset(int(name.removeprefix("db")) for name in self._information("keyspace"))

    def empty(self, number: int) -> None:
        """End the connections that use a database, and delete all of its keys."""
        operation = f"empty database {number}"
        for line in str(self._call(operation, "CLIENT", "LIST")).splitlines():
            client = dict(word.split("=", 1) for word in line.split(" ") if "=" in word)
            if client.get("db") == str(number):
                self._call(operation, "CLIENT", "KILL", "ID", client["id"], "SKIPME", "yes")
        self._call(operation, "SELECT", number)
        self._call(operation, "FLUSHDB", "ASYNC")
        self._call(operation, "SELECT", 0)  # so that nobody takes this connection for one of its users

    # ---

    def _information(self, section: str) -> dict[str, str]:
        text = str(self._call(f"read {section} information", "INFO", section))
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def _call(self, operation: str, *command: str | int) -> Any:
        acts = command[0] in CHANGES or command[:2] in CHANGES
        with self._typed(operation), Effect("valkey write", acts=acts):
            return self._connected(operation).execute_command(*command)  # type: ignore[no-untyped-call]

    def _connected(self, operation: str) -> redis.Redis:
        if self._client is None:
            self._client = redis.Redis.from_url(
                self.url,
                password=password(self._password_file, operation),
                socket_timeout=self._timeout,
                socket_connect_timeout=min(CONNECT_TIMEOUT_S, self._timeout),
                retry=None,
                protocol=2,
                decode_responses=True,
                single_connection_client=True,
            )
            self._client.response_callbacks.clear()  # the answers as the server gives them
        return self._client

    @contextmanager
    def _typed(self, operation: str) -> Iterator[None]:
        """Raise what the client library raises as an error of Kennel's."""
        try:
            yield
        except (redis.AuthenticationError, redis.exceptions.AuthorizationError) as exc:
            raise Rejected(SYSTEM, operation, f"{exc}; {_login_help(self._password_file)}") from exc
        except redis.exceptions.NoPermissionError as exc:
            detail = f"{exc}; Kennel's own user needs the rules `~* &* +@all`"
            raise Rejected(SYSTEM, operation, detail) from exc
        except redis.BusyLoadingError as exc:
            raise Unavailable(SYSTEM, operation, f"{self._place()} is still loading its data") from exc
        except redis.ReadOnlyError as exc:
            detail = f"{self._place()} is a replica: KENNEL_VALKEY_URL must name the primary"
            raise Unavailable(SYSTEM, operation, detail) from exc
        except redis.TimeoutError as exc:
            raise Unavailable(SYSTEM, operation, f"no answer from {self._place()} in time") from exc
        except (redis.ConnectionError, OSError) as exc:
            raise Unavailable(SYSTEM, operation, f"{exc} ({self._place()}); is it running?") from exc
        except redis.ResponseError as exc:
            kind = Unavailable if str(exc).startswith(("BUSY", "MASTERDOWN", "TRYAGAIN")) else Rejected
            raise kind(SYSTEM, operation, str(exc)) from exc
        except redis.RedisError as exc:
            raise Rejected(SYSTEM, operation, f"{self._place()} is no Valkey or Redis: {exc}") from exc

    def _place(self) -> str:
        parts = urlsplit(self.url)
        return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"


def digest(password: str) -> str:
    """Give the form in which the server keeps a password: 64 hex digits."""
    return hashlib.sha256(password.encode()).hexdigest()


def password(file: Path | None, operation: str) -> str | None:
    """Read the server's password.

    Raises:
        Rejected: the file cannot be read.
    """
    if file is None:
        return None
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        detail = f"cannot read the file of KENNEL_VALKEY_PASSWORD_FILE: {exc}"
        raise Rejected(SYSTEM, operation, detail) from exc


def _login_help(file: Path | None) -> str:
    if file is None:
        return "set KENNEL_VALKEY_PASSWORD_FILE to a file with the server's password"
    return f"check the password in {file} (KENNEL_VALKEY_PASSWORD_FILE)"
