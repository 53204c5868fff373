"""PostgreSQL: databases, and roles with Kennel's mark.

Only who may create roles can write the mark in a role's comment, which says whose the role is. It proves that
a Kennel made it; that this one did follows from its own role being a member of the owner role.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from psycopg.sql import SQL, Literal

from kennel_core.adapters.postgres import Row, Server
from kennel_core.audit import table
from kennel_core.audit.findings import Finding, Verdict, unknown
from kennel_core.audit.scope import Scope
from kennel_core.provision import Owner
from kennel_core.provision.postgres import OWNER, PREFIX, Postgres
from kennel_core.provision.postgres_sql import MARK
from kennel_core.resources import Remembered

KIND = Postgres.kind
DATABASE = re.compile(rf"{PREFIX}[a-z0-9_]*[0-9a-f]{{8}}")
ROLE = re.compile(rf"{PREFIX}([0-9a-f]{{16}}|[a-z0-9_]*[0-9a-f]{{8}}{OWNER})")

EVERYTHING = SQL("""
    SELECT r.rolname AS name, s.description AS mark, r.rolname = current_user AS is_me,
        EXISTS (SELECT FROM pg_auth_members m WHERE m.roleid = r.oid
            AND m.member = (SELECT oid FROM pg_roles WHERE rolname = current_user)) AS is_mine,
        ARRAY (SELECT datname::text FROM pg_database WHERE datdba = r.oid) AS databases
    FROM pg_roles r LEFT JOIN pg_shdescription s
        ON s.objoid = r.oid AND s.classoid = 'pg_authid'::regclass AND starts_with(s.description, {mark})
    WHERE s.description IS NOT NULL OR starts_with(r.rolname, {prefix})
        OR EXISTS (SELECT FROM pg_database WHERE datdba = r.oid AND starts_with(datname, {prefix}))
""").format(mark=Literal(MARK), prefix=Literal(PREFIX))


def look(scope: Scope) -> list[Finding]:
    """Compare the server with the table."""
    table.provisioner(scope, KIND)
    with Server(scope.settings.postgres, scope.settings.postgres_password_file).connect() as session:
        rows = session.rows("list databases and roles", EVERYTHING)
    marked = [row for row in rows if row["mark"]]
    present = {part for row in marked for part in _parts(row)}
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in marked:
        groups[row["mark"]].append(row)
    return [
        *table.compare(scope, KIND, present),
        *(finding for mark, group in sorted(groups.items()) for finding in _of_owner(scope, mark, group)),
        *unknown(KIND, _look_alikes(rows), present),
    ]


def whose(mark: str) -> tuple[int, str] | None:
    """Read project id and ref from a role's mark; None for one that Kennel would not write."""
    found = re.fullmatch(rf"{re.escape(MARK)}(\d+) (.+)", mark)
    try:
        return (int(found[1]), found[2].encode("ascii").decode("unicode_escape")) if found else None
    except ValueError:
        return None


def _parts(row: Row) -> list[str]:
    return [f"role {row['name']}", *(f"database {name}" for name in row["databases"])]


def _look_alikes(rows: Iterable[Row]) -> set[str]:
    databases = {f"database {name}" for row in rows for name in row["databases"] if DATABASE.fullmatch(name)}
    roles = {f"role {row['name']}" for row in rows if ROLE.fullmatch(row["name"]) and not row["is_me"]}
    return databases | roles


def _of_owner(scope: Scope, mark: str, group: list[Row]) -> list[Finding]:
    """Judge what carries one owner's mark."""
    key = whose(mark)
    row = scope.owned.get((KIND, *key)) if key else None
    present = [part for each in group for part in _parts(each)]
    if key is not None and row is not None:
        owner = scope.needed.get((KIND, *key))
        if owner is None:
            return []  # all of it goes with the row
        over = set(present) - table.provisioner(scope, KIND).parts(owner, Remembered(row))
        why = f"{owner.project}, {owner.ref} has no service that needs it any more"
        again = table.amend(row, applied=None)
        return [Finding(KIND, Verdict.LEFTOVER, part, why, again) for part in sorted(over)]
    if key is not None and (KIND, *key) in scope.needed:
        return []  # a pass notes it
    owner = _owner(scope, key, group) if key and any(each["is_mine"] for each in group) else None
    fix = table.adopt(KIND, _maker(scope).name(owner), owner) if owner else None
    return [
        table.stray(scope, KIND, part, owner, fix if part == present[0] else _nothing if fix else None)
        for part in present
    ]


def _nothing() -> None:
    """Leave it to the fix of another part of the same owner."""


def _maker(scope: Scope) -> Any:
    return table.provisioner(scope, KIND)


def _owner(scope: Scope, key: tuple[int, str], group: list[Row]) -> Owner | None:
    """Find the owner whose names these are; the name of a project that is gone is read from them."""
    number, ref = key
    owners = [each["name"].removesuffix(OWNER) for each in group if each["name"].endswith(OWNER)]
    for database in owners:
        stem = re.sub(r"_?[0-9a-f]{8}$", "", database.removeprefix(PREFIX)).replace("_", "-")
        plain = re.sub(r"[^a-z0-9]+", "-", ref.lower()).strip("-")
        for project in ("", stem.removesuffix(f"-{plain}"), stem):
            owner = scope.owner(number, ref, project)
            if _maker(scope).name(owner) == database:
                return owner
    return None
