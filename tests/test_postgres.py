import hashlib
import itertools
import os
import re
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from kennel_core import naming, projects
from kennel_core.adapters.postgres import Query, Row, Server, Session
from kennel_core.environment import Environment
from kennel_core.errors import Rejected, Unavailable
from kennel_core.provision import Owner
from kennel_core.provision import dump as dumping
from kennel_core.provision.postgres import Postgres
from kennel_core.provision.postgres_sql import PRESENT
from kennel_core.settings import Settings
from tests.servers.postgres import KENNEL_ROLE, PASSWORD, PostgresServer
from tests.waiting import until

FEATURE = Owner(7, "shop", "feat/Login", Environment.DEV, ("api", "worker"))
OTHER = Owner(7, "shop", "feat-login", Environment.DEV, ("api",))
PROD = Owner(7, "shop", "main", Environment.PROD, ("api",))


class Remembered:
    """What is remembered of one resource, and how often it was written."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def note(self, **changes: Any) -> None:
        self.state |= changes


class Crash(Exception):
    """Kennel is gone."""


class CrashingServer(Server):
    """Ends Kennel's work at its n-th call, before it reaches the server or before its answer is back."""

    def __init__(self, *args: Any, at: int, answered: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls = itertools.count(1)
        self.at = at
        self.answered = answered

    @contextmanager
    def connect(self, database: str = "", role: str = "") -> Iterator[Session]:
        with super().connect(database, role) as session:
            yield CrashingSession(session._connection, self)


class CrashingSession(Session):
    def __init__(self, connection: Any, server: CrashingServer) -> None:
        super().__init__(connection)
        self._server = server

    def rows(self, operation: str, query: Query, **values: object) -> list[Row]:
        with self._maybe_crashing():
            return super().rows(operation, query, **values)

    def run(self, operation: str, *statements: Query, remedy: str = "") -> None:
        with self._maybe_crashing():
            super().run(operation, *statements, remedy=remedy)

    @contextmanager
    def _maybe_crashing(self) -> Iterator[None]:
        crashes = next(self._server.calls) == self._server.at
        if crashes and not self._server.answered:
            raise Crash
        yield
        if crashes:
            raise Crash


@pytest.fixture
def provisioner(postgres_settings: Settings) -> Postgres:
    return Postgres(postgres_settings)


@pytest.fixture
def by_password(postgres_settings: Settings, postgres: PostgresServer) -> Settings:
    projects.create_secret_key(postgres_settings.secret_key_file)
    place = f"host=127.0.0.1 port={postgres.port} user={KENNEL_ROLE}"
    return postgres_settings.model_copy(update={"postgres": place, "postgres_auth": "password"})


@pytest.fixture
def memory() -> Remembered:
    return Remembered()


def missing(provisioner: Postgres, owner: Owner, memory: Remembered) -> frozenset[str]:
    return provisioner.parts(owner, memory) - provisioner.present()


def login(owner: Owner, service: str = "api") -> str:
    return naming.login(owner.project_id, owner.ref, service)


def ask(
    server: PostgresServer, provisioner: Postgres, owner: Owner, statement: str, service: str = "api"
) -> str:
    """Run a statement as the operating system's user that the service runs as."""
    variables = provisioner.variables(owner, Remembered(), service)
    return server.psql(statement, server.user(login(owner, service)), variables)


def refused(url: str, says: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=says):
        psycopg.connect(url)


# --- what an application gets ----------------------------------------------------------------------------


def test_the_services_of_a_ref_share_what_each_of_them_makes(
    postgres: PostgresServer, provisioner: Postgres, memory: Remembered
) -> None:
    provisioner.ensure(FEATURE, memory)

    assert ask(postgres, provisioner, FEATURE, "SELECT session_user") == login(FEATURE)
    ask(postgres, provisioner, FEATURE, "CREATE TABLE cart (item text); INSERT INTO cart VALUES ('pen')")
    assert ask(postgres, provisioner, FEATURE, "SELECT item FROM cart", "worker") == "pen"
    assert ask(postgres, provisioner, FEATURE, "ALTER TABLE cart ADD n int; DROP TABLE cart", "worker") == ""


def test_another_ref_cannot_connect(
    postgres: PostgresServer, provisioner: Postgres, memory: Remembered
) -> None:
    provisioner.ensure(FEATURE, memory)
    provisioner.ensure(OTHER, Remembered())
    foreign = provisioner.variables(FEATURE, memory, "api")

    said = postgres.psql("SELECT 1", postgres.user(login(OTHER)), {**foreign, "PGUSER": login(OTHER)})
    pretended = postgres.psql("SELECT 1", postgres.user(login(OTHER)), foreign)

    assert 'permission denied for database "kennel_shop_feat_login_' in said
    assert "Peer authentication failed" in pretended


def test_peer_variables_are_those_of_the_original_and_what_libpq_reads(
    settings: Settings, memory: Remembered
) -> None:
    local = Postgres(settings.model_copy(update={"postgres": "host=/run/postgresql user=kennel"}))

    assert local.variables(FEATURE, memory, "api") == {
        "DATABASE_URL": f"postgresql:///{local.name(FEATURE)}?host=/run/postgresql",
        "PGHOST": "/run/postgresql",
        "PGDATABASE": local.name(FEATURE),
        "PGUSER": login(FEATURE),
    }


@pytest.mark.parametrize(
    ("place", "by", "url", "port"),
    [
        ("host=/run/pg", "peer", "postgresql:///DB?host=/run/pg", None),
        ("", "peer", "postgresql:///DB?host=/run/postgresql", None),
        ("host='/run/p g&x' port=5433", "peer", "postgresql:///DB?host=/run/p%20g%26x&port=5433", "5433"),
        (
            "postgresql://kennel@db.example.org/x",
            "password",
            "postgresql://U:P@db.example.org:5432/DB",
            "5432",
        ),
        ("hostaddr=::1 port=5433", "password", "postgresql://U:P@[::1]:5433/DB", "5433"),
        ("host=/run/pg", "password", "postgresql://U:P@/DB?host=/run/pg", "5432"),
    ],
)
def test_variables_lead_to_the_server_that_kennel_uses(
    settings: Settings, memory: Remembered, place: str, by: str, url: str, port: str | None
) -> None:
    projects.create_secret_key(settings.secret_key_file)
    chosen = {"postgres": place, "postgres_auth": by}

    variables = Postgres(settings.model_copy(update=chosen)).variables(FEATURE, memory, "api")

    url = url.replace("DB", variables["PGDATABASE"])
    assert variables["DATABASE_URL"] == url.replace("U:P", f"{login(FEATURE)}:{variables.get('PGPASSWORD')}")
    assert variables.get("PGPORT") == port
    assert ("PGPASSWORD" in variables) == (by == "password")


def test_a_password_reaches_the_database_over_tcp(
    postgres: PostgresServer, by_password: Settings, memory: Remembered
) -> None:
    provisioner = Postgres(by_password)
    provisioner.ensure(FEATURE, memory)

    first = provisioner.variables(FEATURE, memory, "api")
    second = provisioner.variables(FEATURE, memory, "worker")

    assert first == Postgres(by_password).variables(FEATURE, memory, "api")
    assert first["PGPASSWORD"] != second["PGPASSWORD"]
    with psycopg.connect(first["DATABASE_URL"]) as one:
        one.execute("CREATE TABLE cart (item text)")
    with psycopg.connect(second["DATABASE_URL"]) as two:
        two.execute("DROP TABLE cart")
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(first["DATABASE_URL"], password="wrong")


def test_the_server_never_sees_a_password(
    postgres: PostgresServer, by_password: Settings, memory: Remembered
) -> None:
    postgres.query("ALTER ROLE kennel_itself SET log_statement = 'all'")
    provisioner = Postgres(by_password)
    try:
        provisioner.ensure(FEATURE, memory)
    finally:
        postgres.query("ALTER ROLE kennel_itself RESET log_statement")

    log = (postgres.home / "log").read_text()
    assert "SCRAM-SHA-256$" in log
    assert provisioner.variables(FEATURE, memory, "api")["PGPASSWORD"] not in log
    assert PASSWORD not in log


def test_another_key_means_another_password(
    postgres: PostgresServer, by_password: Settings, memory: Remembered
) -> None:
    Postgres(by_password).ensure(FEATURE, memory)
    by_password.secret_key_file.write_text("k" * 64)

    later = Postgres(by_password)
    assert missing(later, FEATURE, memory)
    later.ensure(FEATURE, memory)

    with psycopg.connect(later.variables(FEATURE, memory, "api")["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_services_that_change_to_peer_lose_their_password(
    postgres: PostgresServer, by_password: Settings, memory: Remembered
) -> None:
    Postgres(by_password).ensure(FEATURE, memory)

    Postgres(by_password.model_copy(update={**postgres.settings, "postgres_auth": "peer"})).ensure(
        FEATURE, memory
    )

    hashes = postgres.query("SELECT rolpassword FROM pg_authid WHERE rolname = %s", login(FEATURE))
    assert hashes == [(None,)]


def test_peer_without_a_socket_is_refused_before_anything_is_made(
    by_password: Settings, memory: Remembered
) -> None:
    provisioner = Postgres(by_password.model_copy(update={"postgres_auth": "peer"}))

    with pytest.raises(Rejected, match="KENNEL_POSTGRES_AUTH=password"):
        provisioner.ensure(FEATURE, memory)
    assert provisioner.present() == frozenset()


def test_a_database_takes_as_many_connections_as_the_settings_say(
    postgres: PostgresServer, by_password: Settings, memory: Remembered
) -> None:
    by_password = by_password.model_copy(update={"postgres_connections": 2})
    provisioner = Postgres(by_password)
    provisioner.ensure(FEATURE, memory)
    urls = [provisioner.variables(FEATURE, memory, name)["DATABASE_URL"] for name in FEATURE.services]

    with psycopg.connect(urls[0]), psycopg.connect(urls[1]):
        refused(urls[0], "too many connections for database")
    with psycopg.connect(urls[0]) as one:
        one.execute(f"ALTER DATABASE {provisioner.name(FEATURE)} CONNECTION LIMIT 100")  # its owner may
    with psycopg.connect(urls[0]), psycopg.connect(urls[0]):
        refused(urls[0], "too many connections for role")

    more = Postgres(by_password.model_copy(update={"postgres_connections": 3}))
    assert missing(more, FEATURE, memory) == {f"settings of {more.name(FEATURE)}"}
    more.ensure(FEATURE, memory)
    assert missing(more, FEATURE, memory) == frozenset()
    with psycopg.connect(urls[0]), psycopg.connect(urls[0]), psycopg.connect(urls[1]):
        pass


def test_a_new_database_has_what_the_template_has_and_the_extensions(
    postgres: PostgresServer, postgres_settings: Settings, memory: Remembered
) -> None:
    postgres.query("CREATE DATABASE pattern IS_TEMPLATE true")
    postgres.query("CREATE TABLE seed AS SELECT 1 AS n", database="pattern")
    chosen = {"postgres_template": "pattern", "postgres_extensions": "pgcrypto citext"}
    provisioner = Postgres(postgres_settings.model_copy(update=chosen))

    provisioner.ensure(FEATURE, memory)
    provisioner.ensure(FEATURE, memory)

    name = provisioner.name(FEATURE)
    assert postgres.query("SELECT n FROM seed", database=name) == [(1,)]
    made = postgres.query("SELECT extname, pg_get_userbyid(extowner) FROM pg_extension", database=name)
    assert {("pgcrypto", f"{name}_owner"), ("citext", f"{name}_owner")} <= set(made)


@pytest.mark.parametrize(
    ("extensions", "says"),
    [
        ("no_such_thing", "KENNEL_POSTGRES_EXTENSIONS"),
        ("pageinspect", "let a superuser run CREATE EXTENSION in template1"),
    ],
)
def test_an_extension_that_cannot_be_had_is_a_clear_no(
    postgres: PostgresServer, postgres_settings: Settings, memory: Remembered, extensions: str, says: str
) -> None:
    provisioner = Postgres(postgres_settings.model_copy(update={"postgres_extensions": extensions}))

    with pytest.raises(Rejected, match=says):
        provisioner.ensure(FEATURE, memory)

    assert missing(provisioner, FEATURE, memory)


def test_an_extension_that_a_superuser_put_into_the_template_is_there_already(
    postgres: PostgresServer, postgres_settings: Settings, memory: Remembered
) -> None:
    postgres.query("CREATE DATABASE pattern IS_TEMPLATE true")
    postgres.query("CREATE EXTENSION pageinspect", database="pattern")
    chosen = {"postgres_template": "pattern", "postgres_extensions": "pageinspect"}
    provisioner = Postgres(postgres_settings.model_copy(update=chosen))

    provisioner.ensure(FEATURE, memory)

    assert missing(provisioner, FEATURE, memory) == frozenset()


def test_an_owner_cannot_lend_itself_the_rights_of_kennel(
    postgres: PostgresServer, provisioner: Postgres, postgres_settings: Settings, memory: Remembered
) -> None:
    provisioner.ensure(FEATURE, memory)
    name = provisioner.name(FEATURE)
    trap = f"""
        CREATE FUNCTION trap() RETURNS text LANGUAGE plpgsql AS $$
            BEGIN EXECUTE 'ALTER ROLE {login(FEATURE)} CREATEDB CREATEROLE'; RETURN ''; END $$;
        CREATE VIEW pg_extension AS SELECT trap()::name AS extname;
        CREATE VIEW pg_roles AS SELECT trap()::name AS rolname;
        ALTER DATABASE {name} SET search_path = public, pg_catalog
    """
    assert ask(postgres, provisioner, FEATURE, trap) == ""
    more = Postgres(postgres_settings.model_copy(update={"postgres_extensions": "citext"}))

    more.ensure(FEATURE, memory)
    more.ensure(Owner(7, "shop", "feat/Login", Environment.DEV, ("api",)), memory)

    rights = postgres.query(
        "SELECT rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = %s", login(FEATURE)
    )
    assert rights == [(False, False)]


# --- again and again -------------------------------------------------------------------------------------


def test_nothing_is_missing_after_ensure(provisioner: Postgres, memory: Remembered) -> None:
    assert len(missing(provisioner, FEATURE, memory)) == 5

    provisioner.ensure(FEATURE, memory)

    assert missing(provisioner, FEATURE, memory) == frozenset()


def test_where_nothing_is_to_be_done_ensure_only_looks(
    provisioner: Postgres, postgres_settings: Settings, memory: Remembered
) -> None:
    provisioner.ensure(FEATURE, memory)

    assert count_steps(postgres_settings, lambda counted: counted.ensure(FEATURE, memory)) == 2
    assert count_steps(postgres_settings, lambda counted: counted.present()) == 1


def test_ensure_mends_what_was_changed_by_hand(
    postgres: PostgresServer, provisioner: Postgres, memory: Remembered
) -> None:
    provisioner.ensure(FEATURE, memory)
    ask(postgres, provisioner, FEATURE, "CREATE TABLE cart ()")
    name = provisioner.name(FEATURE)
    postgres.query(f"ALTER ROLE {login(FEATURE)} NOLOGIN")
    postgres.query(f"REVOKE {name}_owner FROM {login(FEATURE, 'worker')}")
    postgres.query(f"GRANT CONNECT ON DATABASE {name} TO PUBLIC")
    postgres.query(f"ALTER DATABASE {name} CONNECTION LIMIT -1")

    provisioner.ensure(FEATURE, memory)
    provisioner.ensure(OTHER, Remembered())

    assert ask(postgres, provisioner, FEATURE, "SELECT count(*) FROM cart") == "0"
    assert ask(postgres, provisioner, FEATURE, "SELECT count(*) FROM cart", "worker") == "0"
    foreign = {**provisioner.variables(FEATURE, memory, "api"), "PGUSER": login(OTHER)}
    assert "permission denied" in postgres.psql("SELECT 1", postgres.user(login(OTHER)), foreign)


def test_a_database_that_its_own_service_dropped_is_made_again(
    postgres: PostgresServer, provisioner: Postgres, memory: Remembered
) -> None:
    provisioner.ensure(FEATURE, memory)
    elsewhere = {**provisioner.variables(FEATURE, memory, "api")}
    elsewhere["DATABASE_URL"] = elsewhere["DATABASE_URL"].replace(provisioner.name(FEATURE), "postgres")
    postgres.psql(f"DROP DATABASE {provisioner.name(FEATURE)}", postgres.user(login(FEATURE)), elsewhere)
    assert missing(provisioner, FEATURE, memory) == {f"database {provisioner.name(FEATURE)}"}

    provisioner.ensure(FEATURE, memory)

    assert ask(postgres, provisioner, FEATURE, "SELECT 1") == "1"


def test_a_service_that_is_gone_loses_its_login_and_leaves_its_data(
    postgres: PostgresServer, provisioner: Postgres, memory: Remembered
) -> None:
    provisioner.ensure(FEATURE, memory)
    mine = f"SET ROLE {login(FEATURE, 'worker')}; CREATE SCHEMA mine; CREATE TABLE mine.t ()"
    postgres.query(f"GRANT CREATE ON DATABASE {provisioner.name(FEATURE)} TO {login(FEATURE, 'worker')}")
    assert ask(postgres, provisioner, FEATURE, mine, "worker") == ""
    fewer = Owner(7, "shop", "feat/Login", Environment.DEV, ("api",))
    assert missing(provisioner, fewer, memory)

    provisioner.ensure(fewer, memory)

    assert missing(provisioner, fewer, memory) == frozenset()
    assert f"role {login(FEATURE, 'worker')}" not in provisioner.present()
    assert ask(postgres, provisioner, fewer, "SELECT count(*) FROM mine.t") == "0"


def test_removal_leaves_nothing_whoever_is_connected(
    postgres: PostgresServer, by_password: Settings, memory: Remembered
) -> None:
    provisioner = Postgres(by_password)
    provisioner.ensure(FEATURE, memory)
    provisioner.ensure(OTHER, Remembered())
    others = provisioner.parts(OTHER, Remembered()) & provisioner.present()
    url = provisioner.variables(FEATURE, memory, "worker")["DATABASE_URL"]

    with closing(psycopg.connect(url, autocommit=True)) as idle, closing(psycopg.connect(url)) as busy:
        busy.execute("CREATE TABLE cart ()")
        provisioner.remove(Owner(7, "shop", "feat/Login", Environment.DEV, ()), memory)

        with pytest.raises(psycopg.OperationalError):
            idle.execute("SELECT 1")
    assert provisioner.present() == others
    assert not (by_password.state_dir / "dumps").exists()
    provisioner.remove(FEATURE, memory)
    provisioner.ensure(FEATURE, memory)
    assert missing(provisioner, FEATURE, memory) == frozenset()


def test_a_session_of_a_superuser_is_waited_for(
    postgres: PostgresServer, provisioner: Postgres, memory: Remembered
) -> None:
    provisioner.ensure(FEATURE, memory)

    says = "only a superuser can end a superuser's session"
    with postgres.connect(provisioner.name(FEATURE)), pytest.raises(Rejected, match=says):
        provisioner.remove(FEATURE, memory)
    provisioner.remove(FEATURE, memory)

    assert provisioner.present() == frozenset()


def test_what_a_role_owns_in_another_database_is_named(
    postgres: PostgresServer, provisioner: Postgres, memory: Remembered
) -> None:
    provisioner.ensure(FEATURE, memory)
    postgres.query("CREATE DATABASE elsewhere")
    variables = provisioner.variables(FEATURE, memory, "api")
    variables["DATABASE_URL"] = variables["DATABASE_URL"].replace(provisioner.name(FEATURE), "elsewhere")
    postgres.psql("SELECT lo_create(0)", postgres.user(login(FEATURE)), variables)

    with pytest.raises(Rejected, match=r"1 object in database elsewhere.*DROP OWNED BY"):
        provisioner.remove(FEATURE, memory)
    postgres.query(f"DROP OWNED BY {provisioner.name(FEATURE)}_owner", database="elsewhere")
    provisioner.remove(FEATURE, memory)

    assert provisioner.present() == frozenset()


@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
def test_a_crash_at_any_step_of_making_is_mended(
    postgres: PostgresServer, postgres_settings: Settings, *, answered: bool
) -> None:
    chosen = postgres_settings.model_copy(update={"postgres_extensions": "citext"})
    good = Postgres(chosen)
    steps = count_steps(chosen, lambda counted: counted.ensure(FEATURE, Remembered()))
    good.remove(FEATURE, Remembered())

    for at in range(1, steps + 1):
        memory = Remembered()
        with pytest.raises(Crash):
            crashing(chosen, at, answered=answered).ensure(FEATURE, memory)
        assert missing(good, FEATURE, memory), at
        good.ensure(FEATURE, memory)
        assert missing(good, FEATURE, memory) == frozenset(), at
        assert ask(postgres, good, FEATURE, "CREATE TABLE t (c citext)") == "", at
        assert ask(postgres, good, FEATURE, "DROP TABLE t", "worker") == "", at
        good.remove(FEATURE, memory)
        assert good.present() == frozenset(), at
    assert steps == 8


@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
def test_a_crash_at_any_step_of_making_leaves_what_removal_finds(
    postgres_settings: Settings, *, answered: bool
) -> None:
    good = Postgres(postgres_settings)
    steps = count_steps(postgres_settings, lambda counted: counted.ensure(FEATURE, Remembered()))
    good.remove(FEATURE, Remembered())

    for at in range(1, steps + 1):
        memory = Remembered()
        with pytest.raises(Crash):
            crashing(postgres_settings, at, answered=answered).ensure(FEATURE, memory)
        good.remove(FEATURE, memory)
        assert good.present() == frozenset(), at


@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
def test_a_crash_at_any_step_of_removal_is_mended_both_ways(
    postgres: PostgresServer, postgres_settings: Settings, *, answered: bool
) -> None:
    good = Postgres(postgres_settings)
    good.ensure(FEATURE, Remembered())
    steps = count_steps(postgres_settings, lambda counted: counted.remove(FEATURE, Remembered()))

    for at, comes_back in itertools.product(range(1, steps + 1), (False, True)):
        memory = Remembered()
        good.ensure(FEATURE, memory)
        with pytest.raises(Crash):
            crashing(postgres_settings, at, answered=answered).remove(FEATURE, memory)
        if comes_back:
            assert at <= 2 or missing(good, FEATURE, memory), at  # by then it has only looked
            good.ensure(FEATURE, memory)
            assert ask(postgres, good, FEATURE, "SELECT 1") == "1", at
            assert missing(good, FEATURE, memory) == frozenset(), at
        good.remove(FEATURE, memory)
        assert good.present() == frozenset(), at
    assert steps == 6


@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
def test_a_crash_at_any_step_of_dropping_a_login_is_mended(
    postgres: PostgresServer, postgres_settings: Settings, *, answered: bool
) -> None:
    good = Postgres(postgres_settings)
    fewer = Owner(7, "shop", "feat/Login", Environment.DEV, ("api",))
    good.ensure(FEATURE, Remembered())
    steps = count_steps(postgres_settings, lambda counted: counted.ensure(fewer, Remembered()))

    for at in range(1, steps + 1):
        memory = Remembered()
        good.ensure(FEATURE, memory)
        with pytest.raises(Crash):
            crashing(postgres_settings, at, answered=answered).ensure(fewer, memory)
        assert missing(good, fewer, memory), at
        good.ensure(fewer, memory)
        assert good.present() == good.parts(fewer, memory), at
        assert ask(postgres, good, fewer, "SELECT 1") == "1", at


def crashing(settings: Settings, at: int, *, answered: bool) -> Postgres:
    return Postgres(
        settings,
        CrashingServer(settings.postgres, settings.postgres_password_file, at=at, answered=answered),
    )


def count_steps(settings: Settings, work: Callable[[Postgres], object]) -> int:
    server = CrashingServer(settings.postgres, settings.postgres_password_file, at=0, answered=False)
    work(Postgres(settings, server))
    return next(server.calls) - 1


def test_what_a_session_of_a_killed_kennel_is_still_making_is_for_later(
    postgres_settings: Settings, postgres: PostgresServer
) -> None:
    server = Server(postgres_settings.postgres, postgres_settings.postgres_password_file)

    def make() -> None:
        with server.connect() as session:
            session.run("create role kennel_twice", sql.SQL("CREATE ROLE kennel_twice"))

    with postgres.connect() as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN")
        other.execute("CREATE ROLE kennel_twice")
        made = pool.submit(make)
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        until(lambda: postgres.query(waiting), what="the second waits for the first")
        other.execute("COMMIT")
        with pytest.raises(Unavailable, match="somebody else is making it"):
            made.result()


def test_eight_owners_are_made_and_removed_at_once(provisioner: Postgres) -> None:
    owners = [Owner(7, "shop", f"pr-{n}", Environment.PREVIEW, ("api", "worker")) for n in range(1, 9)]
    memories = [Remembered() for _ in owners]
    together = threading.Barrier(len(owners))

    def ensure(owner: Owner, memory: Remembered) -> None:
        together.wait(20)
        provisioner.ensure(owner, memory)

    def remove(owner: Owner, memory: Remembered) -> None:
        together.wait(20)
        provisioner.remove(owner, memory)

    with ThreadPoolExecutor(len(owners)) as pool:
        list(pool.map(ensure, owners, memories))
        for owner, memory in zip(owners, memories, strict=True):
            assert missing(provisioner, owner, memory) == frozenset()
        list(pool.map(remove, owners, memories))
    assert provisioner.present() == frozenset()


# --- names -----------------------------------------------------------------------------------------------


def test_refs_that_differ_only_where_names_are_cut_have_databases_of_their_own(
    postgres: PostgresServer, provisioner: Postgres
) -> None:
    pair = [Owner(7, "s" * 99, f"{'x' * 200}{n}", Environment.DEV, ("api",)) for n in (1, 2)]

    for owner in pair:
        provisioner.ensure(owner, Remembered())

    names = {provisioner.name(owner) for owner in pair}
    assert len(names) == 2
    assert {len(name) for name in names} == {63 - len("_owner")}
    assert {f"database {name}" for name in names} < provisioner.present()


def test_the_second_of_two_refs_with_the_very_same_name_is_refused(
    postgres: PostgresServer, provisioner: Postgres, memory: Remembered
) -> None:
    first, second = (Owner(7, "shop", ref, Environment.DEV, ("api",)) for ref in same_digest(7))
    assert provisioner.name(first) == provisioner.name(second)
    provisioner.ensure(first, memory)
    ask(postgres, provisioner, first, "CREATE TABLE cart ()")

    with pytest.raises(Rejected, match="somebody else made a role of this name"):
        provisioner.ensure(second, Remembered())
    provisioner.remove(second, Remembered())

    assert ask(postgres, provisioner, first, "SELECT count(*) FROM cart") == "0"
    assert missing(provisioner, first, memory) == frozenset()


def same_digest(project_id: int) -> tuple[str, str]:
    """Find two refs that read alike and whose 32 bits are the same: a birthday needs some 80,000 tries."""
    seen: dict[str, str] = {}
    for marks in itertools.product("_+", repeat=20):
        ref = f"a{''.join(marks)}b"
        text = f'["{project_id}", "{ref}"]'
        found = hashlib.sha256(text.encode()).hexdigest()[:8]
        if found in seen:
            assert naming.digest(project_id, ref) == found
            return seen[found], ref
        seen[found] = ref
    raise AssertionError


@pytest.mark.parametrize("ref", ["ünï/cödé-✓", "it's\\a;\"DROP--", "%s{}$$"])
def test_a_ref_may_be_called_anything(
    postgres: PostgresServer, provisioner: Postgres, memory: Remembered, ref: str
) -> None:
    owner = Owner(7, "shop", ref, Environment.DEV, ("api",))

    provisioner.ensure(owner, memory)

    assert ask(postgres, provisioner, owner, "SELECT 1") == "1"
    provisioner.remove(owner, memory)
    assert provisioner.present() == frozenset()


# --- what is somebody else's -----------------------------------------------------------------------------


def foreign_things(name: str) -> dict[str, list[str]]:
    owner_role, api = f"{name}_owner", login(FEATURE)
    return {
        "owner role": [f"CREATE ROLE {owner_role} CREATEDB"],
        "login": [f"CREATE ROLE {api} LOGIN CREATEDB"],
        "login with words": [f"CREATE ROLE {api}", f"COMMENT ON ROLE {api} IS 'kennel: 8 feat/Login'"],
        "database": ["CREATE ROLE alice", f"CREATE DATABASE {name} OWNER alice"],
        "both": [f"CREATE ROLE {owner_role}", f"CREATE DATABASE {name} OWNER {owner_role}"],
    }


@pytest.mark.parametrize("case", foreign_things("").keys())
def test_what_somebody_else_made_is_neither_adopted_nor_touched(
    postgres: PostgresServer, provisioner: Postgres, memory: Remembered, case: str
) -> None:
    name = provisioner.name(FEATURE)
    for statement in foreign_things(name)[case]:
        postgres.query(statement)
    before = everything(postgres)

    with pytest.raises(Rejected, match="somebody else made"):
        provisioner.ensure(FEATURE, memory)
    assert missing(provisioner, FEATURE, memory)
    assert everything(postgres) == before
    provisioner.remove(FEATURE, memory)
    assert everything(postgres) == before


def test_removal_spares_a_foreign_database_below_roles_of_kennel(
    postgres: PostgresServer, provisioner: Postgres, memory: Remembered
) -> None:
    provisioner.ensure(FEATURE, memory)
    name = provisioner.name(FEATURE)
    postgres.query("CREATE ROLE alice")
    postgres.query(f"ALTER DATABASE {name} OWNER TO alice")

    with pytest.raises(Rejected, match="belongs to alice"):
        provisioner.ensure(FEATURE, memory)
    provisioner.remove(FEATURE, memory)

    assert postgres.query("SELECT 1 FROM pg_database WHERE datname = %s", name) == [(1,)]
    assert provisioner.present() == frozenset()


def test_another_kennel_on_the_same_server_keeps_its_own(
    postgres: PostgresServer, provisioner: Postgres, postgres_settings: Settings, memory: Remembered
) -> None:
    password = PASSWORD.replace("'", "''")
    postgres.query(f"CREATE ROLE second LOGIN CREATEDB CREATEROLE PASSWORD '{password}'")
    place = f"host=127.0.0.1 port={postgres.port} user=second"
    by_password = {"postgres": place, "postgres_auth": "password"}
    projects.create_secret_key(postgres_settings.secret_key_file)
    second = Postgres(postgres_settings.model_copy(update=by_password))
    provisioner.ensure(FEATURE, memory)
    before = everything(postgres)

    with pytest.raises(Rejected, match="where Kennel did under another role of its own, GRANT it"):
        second.ensure(FEATURE, Remembered())
    second.remove(FEATURE, Remembered())

    assert everything(postgres) == before


def test_only_what_carries_the_mark_is_listed(postgres: PostgresServer, provisioner: Postgres) -> None:
    postgres.query("CREATE ROLE kennel_shop_main_12345678_owner")
    postgres.query("CREATE DATABASE kennel_shop_main_12345678 OWNER kennel_shop_main_12345678_owner")

    assert provisioner.present() == frozenset()


def everything(postgres: PostgresServer) -> list[tuple[object, ...]]:
    return [
        *postgres.query("SELECT r::text, shobj_description(oid, 'pg_authid') FROM pg_authid r ORDER BY 1"),
        *postgres.query("SELECT m::text FROM pg_auth_members m ORDER BY 1"),
        *postgres.query("SELECT datname, datdba::text, datacl::text FROM pg_database ORDER BY 1"),
    ]


# --- the last copy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", [Environment.PROD, Environment.STAGING])
def test_the_data_of_prod_and_staging_outlives_its_database(
    postgres: PostgresServer, provisioner: Postgres, settings: Settings, environment: Environment
) -> None:
    owner = Owner(7, "shop", "main", environment, ("api",))
    provisioner.ensure(owner, Remembered())
    made = (
        f"CREATE TABLE cart AS SELECT 'pen' AS item; RESET ROLE; SET ROLE {login(owner)}; SELECT lo_create(0)"
    )
    ask(postgres, provisioner, owner, made)

    provisioner.remove(owner, Remembered())

    assert provisioner.present() == frozenset()
    (file,) = (settings.state_dir / "dumps").iterdir()
    assert re.fullmatch(rf"{provisioner.name(owner)}-\d{{8}}T\d{{6}}Z\.dump", file.name)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    text = subprocess.run([postgres.bin / "pg_restore", "--file=-", file], check=True, capture_output=True)
    assert b"\npen\n" in text.stdout


def test_without_a_dump_nothing_is_dropped(
    postgres: PostgresServer, provisioner: Postgres, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Remembered()
    provisioner.ensure(PROD, memory)
    ask(postgres, provisioner, PROD, "CREATE TABLE cart ()")
    before = provisioner.present()

    settings.state_dir.mkdir(exist_ok=True)
    (settings.state_dir / "dumps").write_text("in the way")
    with pytest.raises(Unavailable, match="nothing was dropped"):
        provisioner.remove(PROD, memory)
    (settings.state_dir / "dumps").unlink()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nonexistent")
        with pytest.raises(Rejected, match="install PostgreSQL's client programs"):
            provisioner.remove(PROD, memory)
    postgres.query("CREATE TABLE locked ()", database=provisioner.name(PROD))  # a superuser's
    with pytest.raises(Unavailable, match=r"permission denied for table locked.* nothing was dropped"):
        provisioner.remove(PROD, memory)

    assert provisioner.present() == before
    assert list((settings.state_dir / "dumps").iterdir()) == []
    assert missing(provisioner, PROD, memory)
    provisioner.ensure(PROD, memory)
    assert ask(postgres, provisioner, PROD, "SELECT count(*) FROM cart") == "0"


def test_a_dump_that_takes_too_long_is_given_up(
    postgres: PostgresServer, provisioner: Postgres, postgres_settings: Settings, tmp_path: Path
) -> None:
    provisioner.ensure(PROD, Remembered())
    name = provisioner.name(PROD)
    ask(postgres, provisioner, PROD, "CREATE TABLE cart ()")
    server = Server(postgres_settings.postgres, postgres_settings.postgres_password_file)

    with postgres.connect(name) as holder, holder.transaction():
        holder.execute("LOCK TABLE cart IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Unavailable, match="did not end within"):
            dumping.dump(server, name, tmp_path / "dumps", timeout=1)

    assert list((tmp_path / "dumps").iterdir()) == []


def test_the_password_of_kennel_is_in_no_argument_of_pg_dump(
    provisioner: Postgres, postgres_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provisioner.ensure(PROD, Remembered())
    spy = tmp_path / "bin/pg_dump"
    spy.parent.mkdir()
    spy.write_text(f'#!/bin/sh\nprintf "%s " "$@" > {tmp_path}/seen\necho no >&2; exit 1\n')
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy.parent}:{os.environ['PATH']}")

    for place in (postgres_settings.postgres, f"{postgres_settings.postgres} password=inline"):
        with pytest.raises(Unavailable, match="no; nothing was dropped"):
            dumping.dump(Server(place, postgres_settings.postgres_password_file), "x", tmp_path / "dumps")

        assert "dbname=x" in (tmp_path / "seen").read_text()
        assert PASSWORD not in (tmp_path / "seen").read_text()
        assert "inline" not in (tmp_path / "seen").read_text()


# --- a server in trouble ---------------------------------------------------------------------------------


def short(settings: Settings, place: str = "") -> Postgres:
    return Postgres(settings, Server(place or settings.postgres, settings.postgres_password_file, timeout=1))


def test_a_server_that_is_down_is_unavailable(settings: Settings, tmp_path: Path, memory: Remembered) -> None:
    provisioner = short(settings, f"host={tmp_path} user=kennel")

    for call in (
        provisioner.present,
        lambda: provisioner.ensure(FEATURE, memory),
        lambda: provisioner.remove(FEATURE, memory),
    ):
        with pytest.raises(Unavailable, match=f"postgres: connect: .*does the server run at {tmp_path}"):
            call()


def test_a_server_that_accepts_and_never_answers_is_given_up(settings: Settings, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / ".s.PGSQL.5432"))
        silent.listen()

        with pytest.raises(Unavailable, match="no answer from"):
            short(settings, f"host={tmp_path} user=kennel").present()


def test_a_frozen_server_is_given_up(
    postgres: PostgresServer, postgres_settings: Settings, provisioner: Postgres, memory: Remembered
) -> None:
    with postgres.frozen(), pytest.raises(Unavailable, match="no answer from"):
        short(postgres_settings).ensure(FEATURE, memory)

    provisioner.ensure(FEATURE, memory)
    assert missing(provisioner, FEATURE, memory) == frozenset()


def test_a_server_that_freezes_in_the_middle_is_given_up(
    postgres: PostgresServer, postgres_settings: Settings, memory: Remembered
) -> None:
    server = Server(postgres_settings.postgres, postgres_settings.postgres_password_file, timeout=1)

    with server.connect() as session, postgres.frozen(), pytest.raises(Unavailable, match="no answer within"):
        session.run("wait", PRESENT)


def test_a_template_in_use_means_later(
    postgres: PostgresServer, postgres_settings: Settings, memory: Remembered
) -> None:
    postgres.query("CREATE DATABASE pattern IS_TEMPLATE true")
    provisioner = Postgres(postgres_settings.model_copy(update={"postgres_template": "pattern"}))

    with postgres.connect("pattern"), pytest.raises(Unavailable, match="is being accessed by other users"):
        provisioner.ensure(FEATURE, memory)

    provisioner.ensure(FEATURE, memory)
    assert missing(provisioner, FEATURE, memory) == frozenset()


@pytest.mark.parametrize("template", ["no_such_template", "elsewhere"])
def test_a_template_that_cannot_be_copied_is_a_clear_no(
    postgres: PostgresServer, postgres_settings: Settings, memory: Remembered, template: str
) -> None:
    postgres.query("CREATE DATABASE elsewhere")
    provisioner = Postgres(postgres_settings.model_copy(update={"postgres_template": template}))

    with pytest.raises(Rejected, match=f"KENNEL_POSTGRES_TEMPLATE.*{template}"):
        provisioner.ensure(FEATURE, memory)


def test_a_read_only_server_means_later(
    postgres: PostgresServer, provisioner: Postgres, memory: Remembered
) -> None:
    provisioner.ensure(OTHER, memory)
    postgres.read_only_for_kennel(on=True)
    try:
        with pytest.raises(Unavailable, match="read-only"):
            provisioner.ensure(FEATURE, Remembered())
        with pytest.raises(Unavailable, match="read-only"):
            provisioner.remove(OTHER, memory)
    finally:
        postgres.read_only_for_kennel(on=False)

    provisioner.remove(OTHER, memory)
    assert provisioner.present() == frozenset()


def test_a_full_disk_means_later(
    postgres: PostgresServer, postgres_settings: Settings, memory: Remembered
) -> None:
    provisioner = Postgres(postgres_settings.model_copy(update={"postgres_template": "small"}))

    with postgres.full_disk(), pytest.raises(Unavailable, match="No space left on device; its disk is full"):
        provisioner.ensure(FEATURE, memory)
    assert missing(provisioner, FEATURE, memory)
    provisioner.ensure(FEATURE, memory)

    assert ask(postgres, provisioner, FEATURE, "SELECT 1") == "1"


def test_a_role_without_rights_is_told_which(
    postgres: PostgresServer, provisioner: Postgres, memory: Remembered
) -> None:
    postgres.query(f"ALTER ROLE {KENNEL_ROLE} NOCREATEROLE")
    try:
        with pytest.raises(Rejected, match="Kennel's role needs CREATEROLE"):
            provisioner.ensure(FEATURE, memory)
        postgres.query(f"ALTER ROLE {KENNEL_ROLE} CREATEROLE NOCREATEDB")
        with pytest.raises(Rejected, match="Kennel's role needs CREATEDB"):
            provisioner.ensure(FEATURE, memory)
    finally:
        postgres.query(f"ALTER ROLE {KENNEL_ROLE} CREATEROLE CREATEDB")
    provisioner.ensure(FEATURE, memory)


def test_what_keeps_kennel_out_is_said_without_its_password(
    postgres_settings: Settings, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    wrong = postgres_settings.model_copy(update={"postgres_password_file": secret})
    absent = postgres_settings.model_copy(update={"postgres_password_file": tmp_path / "absent"})
    nonsense = postgres_settings.model_copy(update={"postgres": "password=hunter2 host"})

    for settings, says in (
        (wrong, "password authentication failed.*pg_hba.conf"),
        (absent, "absent: No such file.*KENNEL_POSTGRES_PASSWORD_FILE"),
        (nonsense, "not a libpq connection string"),
    ):
        with pytest.raises(Rejected, match=says) as caught:
            Postgres(settings).present()
        assert "hunter2" not in str(caught.value)
