"""A real Redis on a Unix socket.

`redis_server` is the session's, emptied for each test by `broker`; `own_redis` is this test's alone, to be
frozen, killed and started again.
"""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.waiting import until


class RedisServer:
    """One redis-server without TCP and without files; ends with the process that started it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.socket = home / "redis.sock"
        self.url = f"redis+socket://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = shutil.which("redis-server")
        assert binary, "redis-server is not installed: run `make setup`"
        argv = ["setpriv", "--pdeathsig", "KILL", binary, "--port", "0", "--unixsocket", str(self.socket)]
        argv += ["--dir", str(self.home), "--save", "", "--appendonly", "no", "--daemonize", "no"]
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        until(self.answers, what="redis-server answers")

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), decode_responses=True, socket_timeout=5)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"redis-server ended with status {self.process.returncode}"
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    def freeze(self) -> None:
        """Let it accept connections and never answer."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; what it held is lost."""
        if self.process is not None:
            self.process.kill()  # also ends a frozen one
            self.process.wait()
            self.process = None
        self.socket.unlink(missing_ok=True)  # it has no time to do so

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The session's server."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def broker(redis_server: RedisServer) -> RedisServer:
    """The session's server, with nothing in it."""
    with redis_server.client() as client:
        client.flushall()
    return redis_server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for this test alone."""
    home = tmp_path / "redis"
    home.mkdir()
    server = RedisServer(home)
    server.start()
    yield server
    server.kill()
