"""What Kennel asks of PostgreSQL, as statements. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from psycopg.sql import SQL, Composed, Identifier, Literal

MARK = "kennel: "  # how the comment of each role begins that Kennel made

Query = SQL | Composed
Statements = list[Query]

PRESENT = SQL("""
    WITH ours AS (
        SELECT r.oid, r.rolname FROM pg_roles r JOIN pg_shdescription s ON s.objoid = r.oid
        WHERE s.classoid = 'pg_authid'::regclass AND starts_with(s.description, {mark}))
    SELECT 'role ' || rolname AS name FROM ours
    UNION ALL SELECT 'database ' || datname FROM pg_database JOIN ours ON ours.oid = datdba
""").format(mark=Literal(MARK))

ROLES = SQL("""
    SELECT * FROM (
        SELECT r.rolname AS name, shobj_description(r.oid, 'pg_authid') AS mark,
            r.rolcanlogin AS can_login, r.rolconnlimit AS connections,
            pg_has_role(current_user, r.oid, 'MEMBER') AS is_kennels,
            ('role=' || %(owner)s) = ANY (r.rolconfig) AS acts_as_owner,
            EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles o ON o.oid = m.roleid
                WHERE m.member = r.oid AND o.rolname = %(owner)s) AS is_member
        FROM pg_roles r) AS roles
    WHERE name = ANY (%(names)s) OR is_member
""")

DATABASE = SQL("""
    SELECT pg_get_userbyid(datdba) AS owner, datconnlimit AS connections,
        EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba)))
            WHERE grantee = 0 AND privilege_type = 'CONNECT') AS is_open
    FROM pg_database WHERE datname = %(database)s
""")

TERMINATE = SQL("""
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE usename = ANY (%(logins)s) AND pid <> pg_backend_pid()
""")


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one owner's things, and the comment that marks its roles."""

    database: str
    owner: str
    logins: dict[str, str]  # by service
    mark: str

    @property
    def roles(self) -> set[str]:
        """Every role that the owner is to have."""
        return {self.owner, *self.logins.values()}


def is_right(login: dict[str, Any], connections: int) -> bool:
    """Tell whether a row of ROLES is what `new_login` makes, as far as it shows."""
    flags = [login["can_login"], login["is_member"], login["acts_as_owner"]]
    return all(flags) and login["connections"] == connections


def new_owner(names: Names) -> Statements:
    """Make the owner role; Kennel's becomes a member, or it could not make a database for it."""
    owner = Identifier(names.owner)
    return [
        SQL("CREATE ROLE {} NOLOGIN").format(owner),
        _comment(names.owner, names.mark),
        SQL("GRANT {} TO CURRENT_USER").format(owner),
    ]


def new_login(names: Names, login: str, connections: int, verifier: str | None) -> Statements:
    """Make the role that a service logs in as."""
    return [
        SQL("CREATE ROLE {}").format(Identifier(login)),
        _comment(login, names.mark),
        *settle_login(names, login, connections, verifier),
    ]


def settle_login(names: Names, login: str, connections: int, verifier: str | None) -> Statements:
    """Let a role log in, with this password or none, and act as the owner, so that siblings share objects."""
    role, owner = Identifier(login), Identifier(names.owner)
    return [
        SQL("ALTER ROLE {} LOGIN CONNECTION LIMIT {} PASSWORD {}").format(
            role, Literal(connections), Literal(verifier)
        ),
        SQL("GRANT {} TO {}").format(owner, role),
        SQL("ALTER ROLE {} SET role TO {}").format(role, owner),
    ]


def take_over(roles: Iterable[str]) -> Statements:
    """Let nobody log in any more, and Kennel do everything that the roles may."""
    return [
        SQL("GRANT {} TO CURRENT_USER").format(_list(roles)),
        *(SQL("ALTER ROLE {} NOLOGIN").format(Identifier(role)) for role in sorted(roles)),
    ]


def leave_to_owner(names: Names, logins: Iterable[str]) -> Statements:
    """In the owner's database: make what the logins own the owner's, and forget what they were granted."""
    gone = _list(logins)
    return [
        SQL("REASSIGN OWNED BY {} TO {}").format(gone, Identifier(names.owner)),
        SQL("DROP OWNED BY {}").format(gone),
    ]


def drop_roles(roles: Iterable[str]) -> Query:
    """Drop all of them or none."""
    return SQL("DROP ROLE {}").format(_list(roles))


def new_database(names: Names, template: str) -> Query:
    """Make the database; nobody can connect to it before `settle_database`."""
    return SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} CONNECTION LIMIT 0").format(
        Identifier(names.database), Identifier(names.owner), Identifier(template)
    )


def settle_database(names: Names, connections: int) -> Statements:
    """Open the database to its owner's members, and to nobody else."""
    database = Identifier(names.database)
    return [
        SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC").format(database),
        SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(database, Literal(connections)),
    ]


def drop_database(names: Names) -> Query:
    """Drop the database, whoever is connected."""
    return SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(names.database))


def new_extension(extension: str) -> Query:
    """Make an extension, and those it needs, in the database that the session is in."""
    return SQL("CREATE EXTENSION IF NOT EXISTS {} CASCADE").format(Identifier(extension))


def _comment(role: str, mark: str) -> Query:
    return SQL("COMMENT ON ROLE {} IS {}").format(Identifier(role), Literal(mark))


def _list(names: Iterable[str]) -> Query:
    return SQL(", ").join(Identifier(name) for name in sorted(names))
