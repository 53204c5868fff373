import json
import re
import sqlite3
from importlib import import_module
from pathlib import Path

import pytest

from kennel_core import db, migrations
from kennel_core.deployments import VERSIONED, snapshot
from kennel_core.errors import ConfigError, Unavailable
from kennel_core.models import TABLES, Deployment, Project
from kennel_core.settings import Settings


@pytest.fixture
def path(settings: Settings) -> Path:
    """Where the handle points to; there is no file yet."""
    db.configure(settings.database)
    return settings.database


def schema(path: Path) -> set[tuple[object, ...]]:
    """Read the file's columns, foreign keys, indexes and checks, whatever the order of its columns."""
    with sqlite3.connect(path) as connection:
        tables = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
        found: set[tuple[object, ...]] = set()
        for table, sql in tables:
            columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
            found |= {
                (table, "column", name, kind, not_null, key) for _, name, kind, not_null, _, key in columns
            }
            keys = connection.execute(f"PRAGMA foreign_key_list({table})").fetchall()
            found |= {(table, "foreign key", *key[2:]) for key in keys}
            found |= {
                (table, "check", check) for check in re.findall(r"CHECK \(.*?\)\)", " ".join(sql.split()))
            }
        indexes = connection.execute("SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'index'")
        found |= {(table, "index", name, sql) for table, name, sql in indexes}
    connection.close()
    return found


def execute(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def refusal() -> str:
    with pytest.raises(ConfigError) as caught, db.connection():
        pass
    return str(caught.value)


def test_the_migrations_make_the_tables_of_the_models(path: Path, tmp_path: Path) -> None:
    migrations.migrate(path)
    migrated = schema(path)

    direct = tmp_path / "direct.db"
    db.configure(direct)
    with db.database.connection_context():
        db.database.create_tables(TABLES, safe=False)

    assert migrated == schema(direct)


def test_migrating_twice_changes_nothing(path: Path) -> None:
    assert migrations.migrate(path) == (0, migrations.LATEST)
    with db.connection():
        Project.create(owner="acme", name="shop", clone_url="https://forge.example.org/acme/shop.git")

    assert migrations.migrate(path) == (migrations.LATEST, migrations.LATEST)
    with db.connection():
        assert Project.select().count() == 1


def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    migrations.migrate(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_missing_file_is_refused_and_not_made(path: Path) -> None:
    assert "create it with `kennel migrate`" in refusal()
    assert not path.exists()


def test_a_newer_file_is_refused(path: Path) -> None:
    migrations.migrate(path)
    execute(path, f"PRAGMA user_version = {migrations.LATEST + 1}")

    assert "install the newer Kennel" in refusal()
    with pytest.raises(ConfigError, match="install the newer Kennel"):
        migrations.migrate(path)


def test_an_older_file_is_refused_until_it_is_migrated(path: Path) -> None:
    db.create_private(path)

    assert "run `kennel migrate`" in refusal()
    migrations.migrate(path)
    with db.connection():
        assert migrations.version() == migrations.LATEST


def test_another_programs_file_is_refused(path: Path) -> None:
    path.parent.mkdir(parents=True)
    execute(path, "PRAGMA application_id = 7", "CREATE TABLE theirs (x)")

    assert "another program's database" in refusal()
    with pytest.raises(ConfigError, match="another program's database"):
        migrations.migrate(path)
    assert {table for table, *_ in schema(path)} == {"theirs"}


def test_a_file_with_tables_and_no_version_is_refused(path: Path) -> None:
    path.parent.mkdir(parents=True)
    execute(path, "CREATE TABLE projects (id)")

    assert "was not made by `kennel migrate`" in refusal()
    with pytest.raises(ConfigError, match="was not made by `kennel migrate`"):
        migrations.migrate(path)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"these are no tables\n" * 100)

    with pytest.raises(Unavailable, match="not a database"), db.connection():
        pass
    with pytest.raises(Unavailable, match="not a database"):
        migrations.migrate(path)


def test_an_interrupted_migration_is_continued_by_the_next_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = import_module(f"kennel_core.migrations.{migrations.SCRIPTS[-1]}")
    whole = script.SQL
    monkeypatch.setattr(script, "SQL", (*whole[:2], "CREATE TABLE builds (nonsense"))
    with pytest.raises(Unavailable):
        migrations.migrate(path)
    assert not any("woken_at" in part for part in schema(path))
    monkeypatch.setattr(script, "SQL", whole)

    assert migrations.migrate(path) == (migrations.LATEST - 1, migrations.LATEST)
    with db.connection():
        assert Project.select().count() == 0


def test_what_runs_before_an_upgrade_is_not_rolled_out_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "SCRIPTS", migrations.SCRIPTS[:1])
    monkeypatch.setattr(migrations, "LATEST", 1)
    migrations.migrate(path)
    live = {name: None for name in VERSIONED if name not in {"resources", "oidc", "inputs"}}
    live |= {"build": 1, "commit": "c", "store_path": "/s", "config_path": "/c", "host": "h", "spa": False}
    with sqlite3.connect(path) as old:
        old.execute("INSERT INTO projects VALUES (1, 'acme', 'shop', 'u', 'main', 1, 0)")
        old.execute(
            'INSERT INTO builds (id, project_id, ref, "commit", status, cancel_requested, attempt,'
            " created_at) VALUES (1, 1, 'main', 'c', 'done', 0, 1, 0)"
        )
        old.execute(
            'INSERT INTO deployments (id, project_id, ref, name, kind, environment, build_id, "commit",'
            " store_path, config_path, host, spa, live, created_at, updated_at)"
            " VALUES (1, 1, 'main', 'api', 'service', 'prod', 1, 'c', '/s', '/c', 'h', 0, ?, 0, 0)",
            [json.dumps(live)],
        )
    old.close()
    monkeypatch.undo()
    migrations.migrate(path)

    with db.connection():
        [row] = Deployment.select()
        assert row.live == snapshot(row)
        assert row.inputs == {"digest": "", "versions": {}}


def test_a_locked_file_is_waited_for_and_then_named(path: Path) -> None:
    migrations.migrate(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with db.connection(), pytest.raises(Unavailable, match="locked"):
        db.database.execute_sql("PRAGMA busy_timeout = 50")
        with db.translated_errors("write"), db.write():
            pass

    other.execute("ROLLBACK")
    other.close()
