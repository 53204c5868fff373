"""Real servers that owners share: Redis, and Valkey where there is one.

`shared_valkey` is this test's alone, to be filled, frozen, killed and started again, once for each program.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.servers.caddy import cache
from tests.servers.ports import free_port
from tests.servers.redis import RedisServer
from tests.waiting import until


def programs() -> list[Path]:
    """Find a Redis and a Valkey: the system's, else those in the cache."""
    path = f"/usr/bin:{os.environ.get('PATH', '')}:{cache() / 'bin'}"
    found = [shutil.which(name, path=path) for name in ("redis-server", "valkey-server")]
    assert any(found), "redis-server is not installed: run `make setup`"
    return [Path(program) for program in found if program]


class ValkeyServer(RedisServer):
    """A server on a Unix socket and a port, with eight databases; what it knows ends with it."""

    def __init__(self, home: Path, program: Path, password: str = "") -> None:
        super().__init__(home)
        self.program, self.password = program, password
        self.port = free_port()
        self.unix = f"unix://{self.socket}"
        self.tcp = f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.launch()
        until(self.answers, what="the server answers")

    def launch(self, *options: str) -> None:
        """Start it, and do not wait."""
        argv = ["setpriv", "--pdeathsig", "KILL", str(self.program), "--port", str(self.port)]
        argv += [
            "--bind",
            "127.0.0.1",
            "--unixsocket",
            str(self.socket),
            "--dir",
            str(self.home),
            "--save",
            "",
        ]
        argv += ["--databases", "8", *options]
        argv += ["--requirepass", self.password] if self.password else []
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)

    def client(self, number: int = 0) -> redis.Redis:
        return redis.Redis(
            unix_socket_path=str(self.socket),
            db=number,
            password=self.password or None,
            decode_responses=True,
            socket_timeout=5,
        )


@pytest.fixture(params=programs(), ids=lambda path: path.name)
def shared_valkey(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server for this test alone."""
    home = tmp_path / "valkey"
    home.mkdir()
    server = ValkeyServer(home, request.param)
    server.start()
    yield server
    server.kill()
