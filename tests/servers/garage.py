"""A real Garage, one node, with all its ports of its own.

`garage_server` is the session's; `own_garage` is this test's alone, to be frozen and killed. Kennel gets a
token that may do what Kennel needs and no more; `root` is for what the test itself asks.
"""

import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from kennel_core.adapters.garage import SCOPES
from kennel_core.settings import Settings
from tests.servers.caddy import cache
from tests.servers.ports import free_port
from tests.waiting import until

CONFIG = """
metadata_dir = "{home}/meta"
data_dir = "{home}/data"
db_engine = "lmdb"
replication_factor = 1
disable_scrub = true
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{secret}"
[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:{s3}"
[admin]
api_bind_addr = "127.0.0.1:{admin}"
admin_token = "{token}"
"""


class GarageServer:
    """One Garage; ends with the process that started it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.root_token, self._rpc_secret = secrets.token_hex(16), secrets.token_hex(32)
        self.token_file = home / "token"
        self.process: subprocess.Popen[bytes] | None = None
        self._rpc, self._s3, self._admin = free_port(), free_port(), free_port()
        self.s3 = f"http://127.0.0.1:{self._s3}"
        self.admin = f"http://127.0.0.1:{self._admin}"

    def start(self, *, layout: bool = True) -> None:
        """Run it; without a layout it can store nothing."""
        program = cache() / "bin" / "garage"
        assert program.exists(), "garage is not built: run `make setup`"
        file = self.home / "garage.toml"
        numbers = {"rpc": self._rpc, "s3": self._s3, "admin": self._admin}
        file.write_text(
            CONFIG.format(home=self.home, secret=self._rpc_secret, token=self.root_token, **numbers)
        )
        argv = ["setpriv", "--pdeathsig", "KILL", str(program), "-c", str(file), "server"]
        # glibc would keep the 19 MiB of each check of a token
        env = {"MALLOC_MMAP_THRESHOLD_": "1048576", "NO_COLOR": "1"}
        with (self.home / "garage.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv + ["--single-node"] * layout, env=env, stdout=log, stderr=log
            )
        until(lambda: self.answers(layout=layout), what="garage answers")
        if not self.token_file.exists():
            self.token_file.write_text(self.token(*SCOPES))

    def answers(self, *, layout: bool = True) -> bool:
        """Tell whether both APIs answer: with a port in use, Garage goes on without that API."""
        assert self.process is not None
        assert self.process.poll() is None, self.log()[-2000:]
        assert "Address already in use" not in self.log(), self.log()[-2000:]
        try:
            healthy = requests.get(f"{self.admin}/health", timeout=2).ok
            return requests.get(self.s3, timeout=2).status_code == 403 and healthy == layout
        except requests.RequestException:
            return False

    def log(self) -> str:
        return (self.home / "garage.log").read_text()

    def root(self, operation: str, body: object = None, **params: str) -> Any:
        """Ask the admin API with the root token; the answer, which must not be an error."""
        response = requests.request(
            "GET" if body is None else "POST",
            f"{self.admin}/v2/{operation}",
            params=params,
            json=body,
            headers={"Authorization": f"Bearer {self.root_token}"},
            timeout=20,
        )
        assert response.ok, response.text
        return response.json()

    def token(self, *scopes: str) -> str:
        """Make a token for these operations."""
        body = {"name": "kennel", "neverExpires": True, "scope": scopes}
        return str(self.root("CreateAdminToken", body)["secretToken"])

    def settings(self, settings: Settings) -> Settings:
        """Let Kennel use this Garage."""
        mine = {"garage_admin": self.admin, "garage_s3": self.s3, "garage_token_file": self.token_file}
        return settings.model_copy(update=mine)

    def freeze(self) -> None:
        """Let it accept connections and never answer."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once: asked nicely, it waits 10 s for clients that keep a connection."""
        if self.process is not None:
            self.process.kill()  # also ends a frozen one
            self.process.wait()
            self.process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@pytest.fixture(scope="session")
def garage_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GarageServer]:
    """The session's server. What a test leaves in it is under names of that test."""
    server = GarageServer(tmp_path_factory.mktemp("garage"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_garage(tmp_path: Path) -> Iterator[GarageServer]:
    """A server for this test alone, not started."""
    home = tmp_path / "garage"
    home.mkdir()
    server = GarageServer(home)
    yield server
    server.kill()
