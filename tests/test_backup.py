"""Backups: made while everything runs, checked, and put back so that what runs goes on running."""

import io
import sqlite3
import tarfile
import threading
import time
from pathlib import Path

import pytest

from kennel_core import backup, builds, db, projects, resources
from kennel_core.errors import ConfigError, Conflict, NotFound, Unavailable
from kennel_core.migrations import LATEST
from kennel_core.models import Build, Project
from kennel_core.settings import Settings
from tests.servers.world import World


def queued(project: Project, ref: str = "main", commit: str = "a" * 40) -> Build:
    with db.write():
        return builds.enqueue(project, ref, commit, time.time())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "kennel.tar"


def elsewhere(settings: Settings, tmp_path: Path) -> Settings:
    """Settings of a new host."""
    return settings.model_copy(update={"state_dir": tmp_path / "new"})


def packed(file: Path, **content: bytes) -> None:
    with tarfile.open(file, "w") as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_a_backup_has_the_rows_and_the_key_and_is_nobody_elses(
    project: Project, settings: Settings, tmp_path: Path, file: Path
) -> None:
    queued(project)
    secret = projects.webhook_secret(project, settings.secret_key_file)

    made = backup.backup(settings, file)

    assert (made.version, made.projects, made.builds) == (LATEST, 1, 1)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.glob(".*")] == []
    db.database.close()
    new = elsewhere(settings, tmp_path)
    assert backup.restore(new, file) == made
    with db.connection():
        assert projects.webhook_secret(projects.find("acme/shop"), new.secret_key_file) == secret
        assert Build.get().commit == "a" * 40
        assert db.database.execute_sql("PRAGMA journal_mode").fetchone() == ("wal",)
    for path in new.state_dir.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_backup_while_others_write_is_one_moment(project: Project, settings: Settings, file: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        with db.connection():
            while not stop.is_set():
                number += 1
                with db.write():  # both or none
                    builds.enqueue(project, f"a-{number}", "a" * 40, time.time())
                    builds.enqueue(project, f"b-{number}", "b" * 40, time.time())

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            assert backup.backup(settings, file.with_name(f"{number}.tar")).builds % 2 == 0
    finally:
        stop.set()
        writer.join()


def test_a_backup_goes_over_no_other_file(project: Project, settings: Settings, file: Path) -> None:
    file.write_text("mine")
    with pytest.raises(Conflict, match="already there"):
        backup.backup(settings, file)
    assert file.read_text() == "mine"


def test_without_a_database_there_is_nothing_to_back_up(settings: Settings, file: Path) -> None:
    with pytest.raises(NotFound, match="KENNEL_STATE_DIR"):
        backup.backup(settings, file)
    assert not file.exists()


def test_a_directory_that_is_not_there_is_told(project: Project, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nowhere"):
        backup.backup(settings, tmp_path / "nowhere" / "kennel.tar")


def test_a_database_that_is_there_is_replaced_only_when_told_and_kept(
    project: Project, settings: Settings, file: Path
) -> None:
    queued(project)
    backup.backup(settings, file)
    queued(project, "topic")
    db.database.close()
    with pytest.raises(Conflict, match=r"2 builds up to .* the backup has 1 up to .*--replace"):
        backup.restore(settings, file)

    backup.restore(settings, file, replace=True)

    with db.connection():
        assert Build.select().count() == 1
    kept = [path.name for path in settings.state_dir.iterdir() if path.name.startswith("kennel.db.2")]
    assert len(kept) == 1
    with sqlite3.connect(settings.state_dir / kept[0]) as old:
        assert old.execute("SELECT count(*) FROM builds").fetchone() == (2,)
    old.close()


def test_a_database_in_use_is_never_replaced(project: Project, settings: Settings, file: Path) -> None:
    backup.backup(settings, file)
    with pytest.raises(Conflict, match="is in use; stop kennel"):
        backup.restore(settings, file, replace=True)
    assert Project.select().count() == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "no whole backup"),
        ({"secret_key": b"x" * 64}, "no whole backup"),
        ({"kennel_db": b"nonsense" * 500, "secret_key": b"x" * 64}, "damaged"),
        ({"kennel_db": b"", "secret_key": b"x" * 64}, "another program"),
        ({"other_txt": b""}, "other.txt"),
        ({"/etc/passwd": b"", "kennel_db": b""}, "passwd"),
    ],
)
def test_what_is_no_backup_is_refused_and_nothing_changed(
    settings: Settings, file: Path, content: dict[str, bytes], said: str
) -> None:
    packed(file, **content)
    with pytest.raises(ConfigError, match=said):
        backup.restore(settings, file)
    assert list(settings.state_dir.iterdir()) == []


def test_a_damaged_copy_is_refused(project: Project, settings: Settings, file: Path, tmp_path: Path) -> None:
    for number in range(50):
        queued(project, f"topic-{number}")
    backup.backup(settings, file)
    data = bytearray(file.read_bytes())
    for place in range(512 + 8192, 512 + 8192 + 4096 * 8, 4096):
        data[place : place + 2000] = b"\xff" * 2000
    file.write_bytes(bytes(data))

    with pytest.raises(ConfigError, match="damaged"):
        backup.restore(elsewhere(settings, tmp_path), file)


def test_a_backup_of_a_newer_kennel_is_refused(
    project: Project, settings: Settings, file: Path, tmp_path: Path
) -> None:
    db.database.execute_sql(f"PRAGMA user_version = {LATEST + 1}")
    with pytest.raises(ConfigError, match="install the newer"):
        backup.backup(settings, file)


def test_what_runs_is_taken_over_after_a_restore_and_what_came_later_by_its_next_build(
    world: World, file: Path
) -> None:
    world.build(world.service("one"))
    world.converge()
    (first,) = world.units()
    backup.backup(world.settings, file)
    world.build(world.service("one", name="web"), ref="topic")
    world.converge()
    (later,) = world.units().keys() - {first}
    db.database.close()

    backup.restore(world.settings, file, replace=True)

    with db.connection():
        report = world.converge()
        assert report.started == []
        assert report.stopped == []
        assert world.get("api") == (200, "one main")
        assert world.units().keys() == {first, later}  # what no row names is not Kennel's to stop
        world.commits = 1
        world.build(world.service("one", name="web"), ref="topic")
        world.converge()
        assert resources.units().keys() == {first, later}
        assert world.get("web", "topic") == (200, "one topic")
        assert world.is_settled()
    db.database.connect()
