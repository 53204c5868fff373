"""A real PostgreSQL: `postgres` is the session's.

It runs in a mount namespace with an /etc/passwd of its own, so that tests can log in as users that this
machine does not have. Whatever ends the tests ends it; the files that a SIGKILL leaves, the next session
removes. POSTGRES_BIN names the directory of another version's programs.
"""

import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from kennel_core.settings import Settings
from tests.servers.ports import free_port
from tests.waiting import until

BASE = Path("/var/tmp")
PREFIX = "kennel-postgres."
SERVER_UID = 61_000  # PostgreSQL refuses to run as root
SUPERUSER = "root"
KENNEL_ROLE = "kennel_itself"
PASSWORD = "pass word/'%"
SMALL_SIZE = "40m"

# The first that matches counts: Kennel by password, everybody else as the user that the process runs as.
PG_HBA = f"""
local all {KENNEL_ROLE} scram-sha-256
local all all peer
host all all 127.0.0.1/32 scram-sha-256
"""

START = """
mount --bind "$HOME_DIR/passwd" /etc/passwd
mount -t tmpfs -o "mode=0700,uid=$OWNER,size=$SMALL_SIZE" tmpfs "$HOME_DIR/small"
exec setpriv --reuid "$OWNER" --regid "$OWNER" --clear-groups --pdeathsig KILL "$@"
"""


class PostgresServer:
    """One server, with its programs, on a socket and on a TCP port of 127.0.0.1."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.bin = programs()
        self.passwd = home / "passwd"
        self.password_file = home / "password"
        self.process: subprocess.Popen[bytes] | None = None
        self._uids = itertools.count(SERVER_UID + 1)

    def create(self) -> None:
        """Make the files of the server."""
        self.home.chmod(0o755)
        for name in ("data", "small", "socket"):
            (self.home / name).mkdir()
            os.chown(self.home / name, SERVER_UID, SERVER_UID)
        self.passwd.write_text(Path("/etc/passwd").read_text())
        self.user("postgres-tests", SERVER_UID)
        self.password_file.write_text(f"{PASSWORD}\n")
        self.password_file.chmod(0o600)
        initdb = ["initdb", f"--username={SUPERUSER}", "--encoding=UTF8", "--locale=C", "--no-sync"]
        initdb += ["--wal-segsize=1", f"--pgdata={self.home / 'data'}"]
        done = subprocess.run(
            self._argv(*initdb), env=self._env(), check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        (self.home / "data/pg_hba.conf").write_text(PG_HBA)

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = ["-D", str(self.home / "data"), "-p", str(self.port), "-k", str(self.home / "socket")]
        for setting in ("listen_addresses=127.0.0.1", "fsync=off", "full_page_writes=off"):
            options += ["-c", setting]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._argv("postgres", *options), env=self._env(), stdout=log, stderr=log
            )
        until(self.answers, what="postgres answers")

    def stop(self) -> None:
        """End it at once, and every session with it."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(20)
            self.process = None

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "log").read_text()
        try:
            self.query("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    @property
    def settings(self) -> dict[str, object]:
        """What Kennel is told of it."""
        place = f"host={self.home}/socket port={self.port}"
        return {"postgres": f"{place} user={KENNEL_ROLE}", "postgres_password_file": self.password_file}

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """Open a connection as the superuser."""
        return psycopg.connect(
            host=f"{self.home}/socket", port=self.port, user=SUPERUSER, dbname=database, autocommit=True
        )

    def query(self, statement: str, *values: object, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement as the superuser; returns its rows, when it has any."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def user(self, name: str, uid: int | None = None) -> int:
        """Let the server know a user of this name; returns the uid to run its programs with."""
        uid = next(self._uids) if uid is None else uid
        with self.passwd.open("a") as file:  # in place: the server sees this inode
            file.write(f"{name}:x:{uid}:{uid}::/:/bin/sh\n")
        return uid

    def psql(self, statement: str, uid: int, variables: dict[str, str]) -> str:
        """Run a statement in psql as another user, with a service's variables; returns what it says."""
        argv = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", f"{self.bin}/psql"]
        argv += ["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement, variables["DATABASE_URL"]]
        env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PGCONNECT_TIMEOUT": "10", **variables}
        done = subprocess.run(argv, env=env, check=False, capture_output=True, text=True, timeout=30)
        return (done.stdout + done.stderr).strip()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it accept connections and never answer."""
        processes = self.processes()
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in processes:
                with suppress(ProcessLookupError):  # its connection is gone
                    os.kill(pid, signal.SIGCONT)

    def processes(self) -> list[int]:
        """Name the server's processes, its first one first."""
        assert self.process is not None
        first = self.process.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Leave no space where copies of the database `small` lie."""
        assert self.process is not None
        filler = Path(f"/proc/{self.process.pid}/root{self.home}/small/filler")
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(64 * 1024)):
                pass
        try:
            yield
        finally:
            filler.unlink()

    def read_only_for_kennel(self, *, on: bool) -> None:
        """Refuse Kennel every write, as a standby does."""
        value = "on" if on else "off"
        self.query(f"ALTER ROLE {KENNEL_ROLE} SET default_transaction_read_only = {value}")

    def clean(self) -> None:
        """Drop every database and role but those that were there first."""
        keep = ("postgres", "template0", "template1", "small")
        names = [name for (name,) in self.query("SELECT datname FROM pg_database") if name not in keep]
        with self.connect() as connection:
            for name in names:
                connection.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(_named(name)))
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(_named(name)))
            roles = connection.execute("SELECT rolname FROM pg_roles WHERE oid >= 16384").fetchall()
            for (name,) in roles:
                if name != KENNEL_ROLE:
                    connection.execute(sql.SQL("DROP OWNED BY {}").format(_named(name)))
                    connection.execute(sql.SQL("DROP ROLE {}").format(_named(name)))

    def _argv(self, program: str, *args: str) -> list[str]:
        # The mounts go with the last process; a change of the user forgets --pdeathsig, so it comes twice.
        shell = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", START, "sh"]
        return ["setpriv", "--pdeathsig", "KILL", *shell, f"{self.bin}/{program}", *args]

    def _env(self) -> dict[str, str]:
        own = {"HOME_DIR": str(self.home), "OWNER": str(SERVER_UID), "SMALL_SIZE": SMALL_SIZE}
        return {"PATH": os.environ["PATH"], "LC_ALL": "C", **own}


def _removed(home: Path) -> bool:
    shutil.rmtree(home, ignore_errors=True)
    return not home.exists()


def programs() -> Path:
    """Find the newest PostgreSQL's programs."""
    if given := os.environ.get("POSTGRES_BIN"):
        return Path(given)
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    program = shutil.which("postgres")
    assert program, "postgres is not installed: run `make setup`"
    return Path(program).resolve().parent


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server with Kennel's role, which is no superuser, and end it again."""
    assert os.geteuid() == 0, "another user's PostgreSQL needs root"
    sweep()
    new = Path(tempfile.mkdtemp(prefix=f"new-{PREFIX}", dir=BASE))
    lock = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    home = new.rename(BASE / new.name.removeprefix("new-"))  # no sibling's `sweep` finds it without a lock
    server = PostgresServer(home)
    try:
        server.create()
        server.start()
        with server.connect() as connection:
            create = sql.SQL("CREATE ROLE {} LOGIN CREATEDB CREATEROLE PASSWORD {}")
            connection.execute(create.format(_named(KENNEL_ROLE), sql.Literal(PASSWORD)))
            place = sql.Literal(f"{home}/small")
            connection.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(place))
            connection.execute("CREATE DATABASE small TABLESPACE small IS_TEMPLATE true")
        yield server
    finally:
        server.stop()
        os.close(lock)
        until(lambda: _removed(home), what="its last processes let go of their files")


@pytest.fixture(scope="session")
def postgres_session() -> Iterator[PostgresServer]:
    """The server of this session."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres(postgres_session: PostgresServer) -> Iterator[PostgresServer]:
    """The session's server; what the test has made is dropped afterwards."""
    yield postgres_session
    postgres_session.clean()


@pytest.fixture
def postgres_settings(settings: Settings, postgres: PostgresServer) -> Settings:
    """Settings with the session's server, where services log in as the user that they run as."""
    return settings.model_copy(update=postgres.settings)


def sweep() -> None:
    """Remove what sessions that were killed could not."""
    for home in BASE.glob(f"{PREFIX}*"):
        handle = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(home, ignore_errors=True)
        finally:
            os.close(handle)


def _named(name: object) -> sql.Identifier:
    return sql.Identifier(str(name))
