"""Connections to one PostgreSQL server, and what its errors mean."""

import re
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from kennel_core.effects import Effect
from kennel_core.errors import Rejected, Unavailable

SYSTEM = "postgres"
CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 30.0
GRACE_S = 2.0  # after which an answer that the server owes is not waited for any more
SOCKET_DIR = "/run/postgresql"
PORT = "5432"

# https://www.postgresql.org/docs/current/errcodes-appendix.html
LATER_CLASSES = {"08", "40", "53", "55", "57", "58", "XX"}
LATER = {
    "23505": "somebody else is making it: a Kennel that was killed, whose statement the server still runs",
    "25006": "the server is read-only: connect Kennel to the primary",
    "42710": "somebody else made it meanwhile",
    "42P04": "somebody else made it meanwhile",
    "53100": "its disk is full",
    "57014": "it took too long",
}
# Before a session exists the server's words are all there is. Another language counts as "later".
REFUSALS = (
    "authentication failed",
    "no password supplied",
    "pg_hba.conf",
    "permission denied",
    r'(database|role) "[^"]*" (does not exist|is not permitted)',
)

Row = dict[str, Any]
Query = sql.SQL | sql.Composed


class Session:
    """One connection, in autocommit mode."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection

    def rows(self, operation: str, query: Query, **values: object) -> list[Row]:
        """Run one query; returns its rows by the names of their columns.

        Raises:
            Unavailable: the server is down, silent, too slow, full or read-only.
            Rejected: it refused.
        """
        try:
            return self._connection.execute(query, values).fetchall()
        except psycopg.Error as exc:
            raise _translated(operation, exc) from exc

    def run(self, operation: str, *statements: Query, remedy: str = "") -> None:
        """Run statements, all or none of them; `remedy` tells what helps against a refusal.

        Raises:
            Unavailable: the server is down, silent, too slow, full or read-only. It may have done them all.
            Rejected: it refused.

        Source: https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT
        """
        try:
            with Effect("sql"):
                self._connection.execute(sql.SQL("; ").join(statements))
        except psycopg.Error as exc:
            raise _translated(operation, exc, remedy) from exc

    def verifier(self, role: str, password: str) -> str:
        """Give the form in which the server keeps the role's password, so that it never sees the password."""
        made = self._connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
        return made.decode()


class Server:
    """A PostgreSQL server, as Kennel's own role sees it.

    `conninfo` is a libpq connection string; without a host it means the socket in SOCKET_DIR, without a
    database ``postgres``. Every statement ends within about `timeout` seconds.
    """

    def __init__(self, conninfo: str, password_file: Path | None = None, timeout: float = TIMEOUT_S) -> None:
        try:
            self._parameters = conninfo_to_dict(conninfo)
        except psycopg.ProgrammingError:  # its text may hold a password
            raise Rejected(SYSTEM, "connect", "KENNEL_POSTGRES is not a libpq connection string") from None
        self._password_file = password_file
        self._timeout = timeout

    @property
    def host(self) -> str:
        """A host name, an address, or the directory of the socket."""
        return str(self._parameters.get("host") or self._parameters.get("hostaddr") or SOCKET_DIR)

    @property
    def port(self) -> str:
        """The TCP port; the number in the socket's name, too."""
        return str(self._parameters.get("port") or PORT)

    @property
    def is_local(self) -> bool:
        """Whether the host is the directory of a socket."""
        return self.host.startswith(("/", "@"))

    @contextmanager
    def connect(self, database: str = "", role: str = "") -> Iterator[Session]:
        """Open a session, in another database when named, with the rights of `role` alone when named.

        Names are looked up in pg_catalog first, whatever the database's owner has set.

        Raises:
            Unavailable: the server is down, silent, starting, or out of connections.
            Rejected: it does not let Kennel in, or the password file cannot be read.
        """
        settings = {"statement_timeout": f"{self._timeout * 1000:.0f}", "search_path": "public"}
        settings |= {"role": role} if role else {}
        given = self._parameters.get("options") or ""
        options = " ".join([str(given), *(f"-c {name}={value}" for name, value in settings.items())])
        try:
            connection = _Connection.connect(
                self.conninfo(database, options=options.strip()),
                autocommit=True,
                row_factory=dict_row,
                password=self.password(),
            )
        except psycopg.Error as exc:
            # The frames hold a connection that is half open. In that state the server lets no database be
            # dropped or copied, by anybody, for a minute (authentication_timeout).
            raise self._refusal(exc) from exc.with_traceback(None)
        connection.limit = self._timeout + GRACE_S
        try:
            yield Session(connection)
        finally:
            connection.close()

    def conninfo(self, database: str = "", **more: str) -> str:
        """Give a connection string without any password."""
        parameters = {name: value for name, value in self._parameters.items() if name != "password"}
        timeout = max(min(CONNECT_TIMEOUT_S, self._timeout), 1)
        defaults = {"dbname": "postgres", "connect_timeout": f"{timeout:.0f}", "application_name": "kennel"}
        if "hostaddr" not in parameters:
            defaults["host"] = SOCKET_DIR
        chosen = {"dbname": database} if database else {}
        return make_conninfo("", **{**defaults, **parameters, **chosen, **more})

    def password(self) -> str | None:
        """Read the password of Kennel's role, when it has one.

        Raises:
            Rejected: the file cannot be read.
        """
        if self._password_file is None:
            given = self._parameters.get("password")
            return None if given is None else str(given)
        try:
            return self._password_file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as exc:
            why = getattr(exc, "strerror", None) or "is not text"
            detail = f"{self._password_file}: {why}; KENNEL_POSTGRES_PASSWORD_FILE names it"
            raise Rejected(SYSTEM, "read the password", detail) from exc

    def _refusal(self, exc: psycopg.Error) -> Unavailable | Rejected:
        where = f"{self.host}, port {self.port}"
        if isinstance(exc, psycopg.errors.ConnectionTimeout):
            return Unavailable(SYSTEM, "connect", f"no answer from {where}")
        words = " ".join(str(exc).split())
        if re.search("|".join(REFUSALS), words):
            return Rejected(SYSTEM, "connect", f"{words}; check KENNEL_POSTGRES and the server's pg_hba.conf")
        return Unavailable(SYSTEM, "connect", f"{words}; does the server run at {where}?")


class _Connection(psycopg.Connection[Row]):
    """Waits for an answer itself, because a server that is frozen does not end a statement in time."""

    limit = CONNECT_TIMEOUT_S

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        return super().wait(_within(gen, self.limit), *args, **kwargs)


class _Silence(psycopg.OperationalError):
    """The server owes an answer."""


def _within(steps: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
    """Pass on the steps of an operation; psycopg goes on at least ten times a second, ready or not."""
    deadline = time.monotonic() + seconds
    ready = None
    while True:
        try:
            waits_for = steps.send(ready)
        except StopIteration as end:
            return end.value
        ready = yield waits_for
        if not ready and time.monotonic() > deadline:
            raise _Silence(f"no answer within {seconds:g} s")


def _translated(operation: str, exc: psycopg.Error, remedy: str = "") -> Unavailable | Rejected:
    code = exc.sqlstate or ""
    said = [exc.diag.message_primary or " ".join(str(exc).split()), exc.diag.message_detail]
    if not code or code in LATER or code[:2] in LATER_CLASSES:
        return Unavailable(SYSTEM, operation, "; ".join(filter(None, [*said, LATER.get(code)])))
    return Rejected(SYSTEM, operation, "; ".join(filter(None, [*said, exc.diag.message_hint, remedy])))
