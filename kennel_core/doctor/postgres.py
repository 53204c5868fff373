"""PostgreSQL: version, rights, and settings that will hurt."""

import re
import shutil
import subprocess

from psycopg.sql import SQL

from kennel_core.adapters.postgres import Row, Server
from kennel_core.doctor.checks import Checks, failed, ok, warning
from kennel_core.doctor.trial import provided
from kennel_core.provision.postgres import Postgres
from kennel_core.settings import Settings

SYSTEM = "postgres"
OLDEST = 14
PROGRAM_TIMEOUT_S = 10.0

LOOK = SQL("""
    SELECT current_setting('server_version') AS version,
        current_setting('server_version_num')::int / 10000 AS major,
        current_setting('max_connections')::int
            - current_setting('superuser_reserved_connections')::int AS connections,
        rolname AS role, rolcreatedb OR rolsuper AS creates_databases,
        rolcreaterole OR rolsuper AS creates_roles, rolsuper AS is_super,
        (SELECT count(*) FROM pg_database WHERE datname LIKE 'kennel\\_%%') AS databases
    FROM pg_roles WHERE rolname = current_user
""")


def examine(settings: Settings) -> Checks:
    """Look, and make and drop a database with its roles. Raises what a pass would get."""
    server = Server(settings.postgres, settings.postgres_password_file)
    with server.connect() as session:
        (found,) = session.rows("look at the server", LOOK)
    if found["major"] < OLDEST:
        yield failed(SYSTEM, f"version {found['version']}", f"Kennel needs PostgreSQL {OLDEST} or newer")
        return
    yield ok(SYSTEM, f"version {found['version']} answers at {server.host}, port {server.port}")
    yield from _rights(found)
    with provided(Postgres(settings)):
        pass
    extensions = settings.postgres_extensions.split()
    what = f"with {', '.join(extensions)} " if extensions else ""
    yield ok(SYSTEM, f"made and dropped a database {what}from {settings.postgres_template}, with its roles")
    yield from _connections(found, settings.postgres_connections)
    yield from _dump(found["major"])


def _rights(found: Row) -> Checks:
    missing = [
        name
        for name, has in (("CREATEDB", "creates_databases"), ("CREATEROLE", "creates_roles"))
        if not found[has]
    ]
    if missing:
        remedy = f"ALTER ROLE {found['role']} {' '.join(missing)}"
        yield failed(SYSTEM, f"role {found['role']} has not {' and '.join(missing)}", remedy)
    elif found["is_super"]:
        remedy = f"ALTER ROLE {found['role']} NOSUPERUSER CREATEDB CREATEROLE is enough"
        yield warning(SYSTEM, f"role {found['role']} is a superuser", remedy)


def _connections(found: Row, limit: int) -> Checks:
    has, needs = found["connections"], (found["databases"] + 1) * limit
    what = f"{found['databases']} databases with up to {limit} connections each, and one more, of {has}"
    if needs > has:
        yield warning(SYSTEM, what, "raise max_connections, or lower KENNEL_POSTGRES_CONNECTIONS")
    else:
        yield ok(SYSTEM, what)


def _dump(server: int) -> Checks:
    """Look for a pg_dump that can read what the server has: an older one refuses."""
    program = shutil.which("pg_dump")
    remedy = f"install the client programs of PostgreSQL {server}: prod and staging are dumped before removal"
    if program is None:
        yield warning(SYSTEM, "pg_dump is not on PATH", remedy)
        return
    said = subprocess.run(
        [program, "--version"], check=False, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S
    ).stdout.strip()
    version = re.search(r"(\d+)", said)
    if version is None or int(version[1]) < server:
        yield warning(SYSTEM, f"{said or program} is older than the server", remedy)
    else:
        yield ok(SYSTEM, said)
