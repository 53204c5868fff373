"""A database for each ref, and a login for each of its services.

The database and what is in it belong to an owner role that nobody logs in as; the logins are its members and
act as it, so that what one service creates the others can use. Every role carries a comment that says whose
it is, set in the transaction that makes it: what lacks it is somebody else's, and so is an owner role that
Kennel's own is no member of. PostgreSQL 14 or newer.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

from kennel_core import derived, naming
from kennel_core.adapters.postgres import PORT, SYSTEM, Row, Server, Session
from kennel_core.environment import Environment
from kennel_core.errors import Rejected
from kennel_core.provision import Memory, Owner
from kennel_core.provision import postgres_sql as statements
from kennel_core.provision.dump import dump
from kennel_core.provision.postgres_sql import Names
from kennel_core.settings import Settings

IDENTIFIER_MAX = 63  # bytes; PostgreSQL cuts what is longer
PREFIX = "kennel_"
OWNER = "_owner"
DUMPED = (Environment.PROD, Environment.STAGING)


class Postgres:
    """See `kennel_core.provision.Provisioner`."""

    kind = "postgres"

    def __init__(self, settings: Settings, server: Server | None = None) -> None:
        self._settings = settings
        self._server = server or Server(settings.postgres, settings.postgres_password_file)
        self._by_password = settings.postgres_auth == "password"

    def name(self, owner: Owner) -> str:
        """Name the owner's database; the name of its role fits as well."""
        limit = IDENTIFIER_MAX - len(PREFIX) - len(OWNER)
        return PREFIX + naming.resource(owner.project_id, owner.project, owner.ref, limit).replace("-", "_")

    def parts(self, owner: Owner, memory: Memory) -> frozenset[str]:
        """Name database and roles; ``settings of x``, which is nowhere, while `ensure` has work to do."""
        names = self._names(owner)
        parts = {f"database {names.database}", *(f"role {role}" for role in names.roles)}
        if memory.state.get("applied") != self._wanted(names):
            parts.add(f"settings of {names.database}")
        return frozenset(parts)

    def present(self) -> frozenset[str]:
        """Name every role that Kennel made, and every database that belongs to one."""
        with self._server.connect() as session:
            rows = session.rows("list what Kennel made", statements.PRESENT)
        return frozenset(row["name"] for row in rows)

    def ensure(self, owner: Owner, memory: Memory) -> None:
        """Make or mend role, database, logins and extensions; drop the logins of services that are gone.

        Raises:
            Unavailable: the server is down, silent, full or read-only, or the template is in use.
            Rejected: a role or the database of this name is somebody else's; a right, the template or an
                extension is missing.
        """
        self._require_way_in()
        names = self._names(owner)
        wanted = self._wanted(names)
        is_known = memory.state.get("applied") == wanted
        with self._server.connect() as session:
            found = _look(session, names)
            _refuse_foreign(found, names)
            memory.note(applied=None)
            if names.owner not in found.ours:
                self._make_owner(session, names)
            if found.database is None:
                self._make_database(session, names)
            if not self._is_settled(found.database):
                settings = statements.settle_database(names, self._settings.postgres_connections)
                session.run(f"set up database {names.database}", *settings)
            for login in names.logins.values():
                self._ensure_login(session, names, found.ours.get(login), login, is_known=is_known)
            if gone := found.ours.keys() - names.roles:
                self._drop_logins(session, names, gone)
        if found.database is None or not is_known:
            self._make_extensions(names)
        memory.note(applied=wanted)

    def variables(self, owner: Owner, memory: Memory, service: str) -> dict[str, str]:  # noqa: ARG002
        """Return ``DATABASE_URL``, and what libpq reads by itself: ``PGHOST``, ``PGDATABASE``, ``PGUSER``...

        Raises:
            Rejected: services cannot log in the way that the settings say.
            ConfigError: there is no key file, and passwords follow from it.
        """
        self._require_way_in()
        server, names = self._server, self._names(owner)
        login = names.logins[service]
        variables = {"PGHOST": server.host, "PGDATABASE": names.database, "PGUSER": login}
        if self._by_password or server.port != PORT:
            variables["PGPORT"] = server.port
        user = ""
        if self._by_password:
            variables["PGPASSWORD"] = self._password(login)
            user = f"{login}:{quote(variables['PGPASSWORD'], safe='')}@"
        if server.is_local:
            port = f"&port={server.port}" if server.port != PORT else ""
            address, query = "", f"?host={quote(server.host)}{port}"
        else:
            host = f"[{server.host}]" if ":" in server.host else server.host
            address, query = f"{host}:{server.port}", ""
        variables["DATABASE_URL"] = f"postgresql://{user}{address}/{names.database}{query}"
        return variables

    def remove(self, owner: Owner, memory: Memory) -> None:
        """Drop the database, of prod and staging after a dump, and every role of the owner's.

        Raises:
            Unavailable: the server is down, silent or read-only, or the dump failed: nothing is dropped then.
            Rejected: a role owns something in another database, or a superuser is connected to this one.
        """
        names = self._names(owner)
        with self._server.connect() as session:
            found = _look(session, names)
            if not found.ours:
                return
            memory.note(applied=None)
            _take_over(session, names, found.ours)
            if found.database is not None and found.database["owner"] in found.ours:
                if owner.environment in DUMPED:
                    dump(self._server, names.database, self._settings.state_dir / "dumps")
                remedy = "only a superuser can end a superuser's session: pg_terminate_backend"
                session.run(f"drop database {names.database}", statements.drop_database(names), remedy=remedy)
            _drop_roles(session, names, found.ours)

    def _names(self, owner: Owner) -> Names:
        database = self.name(owner)
        login = {service: naming.login(owner.project_id, owner.ref, service) for service in owner.services}
        ref = owner.ref.encode("unicode_escape").decode()  # the server may not keep comments in UTF-8
        return Names(database, database + OWNER, login, f"{statements.MARK}{owner.project_id} {ref}")

    def _wanted(self, names: Names) -> dict[str, Any]:
        """Tell one state that `ensure` leaves behind from another where `present` does not; no secret."""
        return {
            "logins": sorted(names.logins.values()),
            "connections": self._settings.postgres_connections,
            "extensions": self._settings.postgres_extensions.split(),
            "passwords": self._key_in_use if self._by_password else "",
        }

    @cached_property
    def _key_in_use(self) -> str:
        return derived.digest(self._settings.secret_key_file, "which key passwords follow from").hex()[:8]

    def _password(self, login: str) -> str:
        return derived.password(self._settings.secret_key_file, self.kind, login)

    def _require_way_in(self) -> None:
        if not self._by_password and not self._server.is_local:
            detail = "peer needs a socket: name its directory as host in KENNEL_POSTGRES, or set"
            raise Rejected(SYSTEM, "log in services", f"{detail} KENNEL_POSTGRES_AUTH=password")

    def _is_settled(self, database: Row | None) -> bool:
        limit = self._settings.postgres_connections
        return database is not None and database["connections"] == limit and not database["is_open"]

    def _make_owner(self, session: Session, names: Names) -> None:
        remedy = "Kennel's role needs CREATEROLE"
        session.run(f"create role {names.owner}", *statements.new_owner(names), remedy=remedy)

    def _make_database(self, session: Session, names: Names) -> None:
        template = self._settings.postgres_template
        remedy = f"Kennel's role needs CREATEDB, and KENNEL_POSTGRES_TEMPLATE ({template}) IS_TEMPLATE true"
        statement = statements.new_database(names, template)
        session.run(f"create database {names.database}", statement, remedy=remedy)

    def _ensure_login(
        self, session: Session, names: Names, found: Row | None, login: str, *, is_known: bool
    ) -> None:
        limit = self._settings.postgres_connections
        if found is not None and is_known and statements.is_right(found, limit):
            return
        verifier = session.verifier(login, self._password(login)) if self._by_password else None
        make = statements.new_login if found is None else statements.settle_login
        session.run(f"set up role {login}", *make(names, login, limit, verifier))

    def _drop_logins(self, session: Session, names: Names, gone: Collection[str]) -> None:
        _take_over(session, names, gone)
        with self._server.connect(names.database) as inside:
            leave = statements.leave_to_owner(names, gone)
            inside.run(f"leave what {', '.join(sorted(gone))} made to {names.owner}", *leave)
        _drop_roles(session, names, gone)

    def _make_extensions(self, names: Names) -> None:
        """Make them with the owner's rights: Kennel's role would lend it its own."""
        extensions = self._settings.postgres_extensions.split()
        if not extensions:
            return
        template = self._settings.postgres_template
        with self._server.connect(names.database, role=names.owner) as session:
            for extension in extensions:
                remedy = (
                    "KENNEL_POSTGRES_EXTENSIONS names it: install it on the server and, where it is not a "
                    f"trusted one, let a superuser run CREATE EXTENSION in {template} (for new databases) "
                    f"and in {names.database}"
                )
                what = f"create extension {extension} in {names.database}"
                session.run(what, statements.new_extension(extension), remedy=remedy)


@dataclass(frozen=True, slots=True)
class _Found:
    """What there is by an owner's names: marked roles by name, other roles, and the database."""

    ours: dict[str, Row]
    foreign: set[str]
    database: Row | None


def _look(session: Session, names: Names) -> _Found:
    what = f"look for {names.database}"
    roles = session.rows(what, statements.ROLES, owner=names.owner, names=sorted(names.roles))
    databases = session.rows(what, statements.DATABASE, database=names.database)
    marked = {row["name"]: row for row in roles if row["mark"] == names.mark}
    if names.owner in marked and not marked[names.owner]["is_kennels"]:
        marked = {}  # another Kennel's, on the same server
    others = names.roles & ({row["name"] for row in roles} - marked.keys())
    return _Found(marked, others, databases[0] if databases else None)


def _refuse_foreign(found: _Found, names: Names) -> None:
    for role in sorted(found.foreign):
        detail = "somebody else made a role of this name: rename it, or drop it"
        detail += "; where Kennel did under another role of its own, GRANT it to the present one"
        raise Rejected(SYSTEM, f"create role {role}", detail)
    if found.database is not None and found.database["owner"] not in found.ours:
        detail = f"it belongs to {found.database['owner']}: somebody else made it; rename it, or drop it"
        raise Rejected(SYSTEM, f"create database {names.database}", detail)


def _take_over(session: Session, names: Names, roles: Collection[str]) -> None:
    what = f"end the sessions of {names.database}"
    session.run(what, *statements.take_over(roles))
    session.rows(what, statements.TERMINATE, logins=sorted(roles))


def _drop_roles(session: Session, names: Names, roles: Collection[str]) -> None:
    remedy = "run DROP OWNED BY for it in the databases named here"
    session.run(f"drop roles of {names.database}", statements.drop_roles(roles), remedy=remedy)
