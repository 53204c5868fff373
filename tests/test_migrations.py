import re
import sqlite3
from importlib import import_module
from pathlib import Path

import pytest

from kennel_core import db, migrations
from kennel_core.errors import ConfigError, Unavailable
from kennel_core.models import TABLES, Project
from kennel_core.settings import Settings


@pytest.fixture
def path(settings: Settings) -> Path:
    """Where the handle points to; there is no file yet."""
    db.configure(settings.database)
    return settings.database


def schema(path: Path) -> set[tuple[str, str, str]]:
    """Read the file's tables and indexes, whatever the line breaks of their SQL."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"
        ).fetchall()
    connection.close()
    return {(kind, name, re.sub(r"\s+", " ", sql).replace("( ", "(")) for kind, name, sql in rows}


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
    assert {name for _kind, name, _sql in schema(path)} == {"theirs"}


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
    assert schema(path) == set()
    monkeypatch.setattr(script, "SQL", whole)

    assert migrations.migrate(path) == (migrations.LATEST - 1, migrations.LATEST)
    with db.connection():
        assert Project.select().count() == 0


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
