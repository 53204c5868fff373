"""All of Kennel: the commands of the Procfile, as processes, with real neighbours and state of their own.

`stack` is the session's, whole at the beginning of each test. `small_stack` starts one that a test may break
for good.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from kennel_core import builds, db, migrations, naming, projects
from kennel_core.adapters import process_tree
from kennel_core.adapters.systemd import Systemd
from kennel_core.models import Build
from kennel_core.settings import Settings
from tests import deliveries
from tests.servers import nix, web
from tests.servers.caddy import Answer, CaddyServer, programs
from tests.servers.git import GitRepository
from tests.servers.ports import free_port
from tests.servers.redis import RedisServer
from tests.servers.systemd import PrivateSystemd, private_systemd
from tests.waiting import until

ROOT = Path(__file__).parents[2]
KENNEL = ("web", "follow", "builder", "reconciler", "beat", "flower")
PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())

FLAKE = """{
  outputs = { self }:
    let
      system = "%(system)s";
      build = name: script: derivation {
        inherit name system;
        builder = "/bin/sh";
        args = [ "-euc" script ];
        PATH = "/usr/bin:/bin";
      };
    in { packages.${system} = {
      api = build "api" ''%(before)s
        mkdir -p $out/bin; cp ${./api.py} $out/bin/api; chmod 755 $out/bin/api'';
      docs = build "docs" "mkdir $out; cp ${./VERSION} $out/index.html";
    }; };
}
"""
DEVENV_NIX = """{ pkgs, ... }:
{
  scottylabs.kennel.config = pkgs.runCommand "kennel-config" { json = ''%s''; passAsFile = [ "json" ]; }
    "mkdir $out; cp $jsonPath $out/kennel.json";
}
"""
API = """#!/usr/bin/python3
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%(version)s")

ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
KENNEL_JSON = {
    "services": {"api": {}},
    "static_sites": {"docs": {"package_attr": "docs", "spa": False}},
}


def files(version: str, *, before: str = "", kennel_json: object = None) -> dict[str, str | bytes | None]:
    """Files of a service `api` that says its version and a site `docs`; `before` precedes its build."""
    text = kennel_json if isinstance(kennel_json, str) else json.dumps(kennel_json or KENNEL_JSON)
    return {
        "flake.nix": FLAKE % {"system": f"{os.uname().machine}-linux", "before": before},
        "devenv.nix": DEVENV_NIX % text,
        "api.py": API % {"version": version},
        "VERSION": version,
    }


def port_range() -> str:
    """Ports for services that other test sessions on this machine do not use."""
    first = 10_000 + os.getpid() % 80 * 100
    return f"{first}-{first + 99}"


class Stack:
    """Kennel on this machine: `start`, `kill` and `stop` take names of the Procfile."""

    def __init__(
        self, home: Path, state: Path, redis: RedisServer, caddy: CaddyServer, systemd: PrivateSystemd
    ) -> None:
        self.home = home
        self.redis, self.caddy, self.systemd = redis, caddy, systemd
        ports = [free_port() for _ in range(3)]
        self.url = f"http://127.0.0.1:{ports[0]}"
        self.flower = f"http://127.0.0.1:{ports[2]}"
        self.settings = Settings(
            state_dir=state,
            runtime_dir=home / "run",
            gcroots_dir=home / "nix/var/gcroots/kennel",
            bind=f"127.0.0.1:{ports[0]}",
            follow_bind=f"127.0.0.1:{ports[1]}",
            domain="kennel.localhost",
            base_domain="localhost",
            https_port=caddy.https_port,
            broker_url=redis.url,
            caddy_admin=caddy.admin,
            bus=systemd.bus,
            journal_dir=systemd.journal,
            git_allow_file=True,
            ports=port_range(),
            health_timeout=15.0,
            drain_timeout=2.0,
            log_format="json",
            min_free_bytes=0,
            catch_up_interval=86_400.0,  # so at start only
        )
        program = nix.programs()[-1]
        self.nix = nix.Nix(program, home / "nix", home / "tools")
        self.env = (
            web.environment(self.settings)
            | self.nix.variables
            | {
                "PATH": f"{Path(sys.executable).parent}:{self.nix.variables['PATH']}",
                "PROMETHEUS_MULTIPROC_DIR": str(home / "metrics"),
                "STACK_FLOWER_PORT": str(ports[2]),
                "PYTHONWARNINGS": "ignore:You",
            }
        )
        self.commands = dict(PROCFILE)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

        self.spawned: list[subprocess.Popen[bytes]] = []

    def prepare(self) -> None:
        """Make the directories, an empty database and nix's configuration."""
        for path in ("run", "metrics", "log", "tools", "nix/etc"):
            (self.home / path).mkdir(parents=True, exist_ok=True)
        (self.home / "nix/etc/nix.conf").write_text(nix.CONFIG)
        db.configure(self.settings.database)
        projects.create_secret_key(self.settings.secret_key_file)
        migrations.migrate(self.settings.database)

    # --- processes

    def start(self, *names: str) -> None:
        """Start those of the processes that do not run."""
        for name in names or KENNEL:
            process = self.processes.get(name)
            if process is None or process.poll() is not None:
                self.processes[name] = self.spawn(name)

    def spawn(self, name: str, **changed: str) -> subprocess.Popen[bytes]:
        """Start a process of the Procfile, with a changed environment."""
        argv = ["setpriv", "--pdeathsig", "KILL", "/bin/sh", "-c", self.commands[name]]
        with (self.home / "log" / name).open("ab") as log:
            process = subprocess.Popen(
                argv, cwd=ROOT, env=self.env | changed, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.spawned.append(process)
        return process

    def below(self, name: str) -> set[int]:
        """The ids of a process and of all that it has started."""
        return process_tree.descendants([self.processes[name].pid], process_tree.table())

    def kill(self, *names: str) -> None:
        """Kill processes and their workers with SIGKILL; what these run, in sessions of its own, is left."""
        for name in names:
            main = self.processes.pop(name)
            table = process_tree.table()
            tree = process_tree.descendants([main.pid], table)
            own = {pid for pid in tree if table[pid].session == table[main.pid].session}
            for pid in (main.pid, *own):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            main.wait()

    def stop(self, *names: str) -> None:
        """End processes in order."""
        ending = {name: process for name, process in self.processes.items() if name in (names or KENNEL)}
        for process in ending.values():
            process.terminate()
        for name, process in ending.items():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill(name)
            self.processes.pop(name, None)

    def end(self) -> None:
        """End everything."""
        self.stop()
        for process in self.spawned:
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        """What a process has written since the beginning."""
        return (self.home / "log" / name).read_text()

    def lines(self, name: str) -> list[dict[str, Any]]:
        """What a process has logged."""
        return [json.loads(line) for line in self.log(name).splitlines() if line.startswith("{")]

    def tracebacks(self) -> list[str]:
        """Lines with a traceback, which is a bug; those of Celery about a lost broker are left out."""
        return [
            line
            for name in KENNEL
            for line in (self.log(name).splitlines() if (self.home / "log" / name).exists() else ())
            if "Traceback" in line and '"logger": "celery.worker.consumer' not in line
        ]

    # --- looking

    def ready(self) -> dict[str, str]:
        """What /readyz finds wrong, by name."""
        checks = requests.get(f"{self.url}/readyz", timeout=10).json()["checks"]
        return {name: check["detail"] for name, check in checks.items() if not check["ok"]}

    def is_whole(self) -> bool:
        """Whether everything runs and answers."""
        try:
            return self.ready() == {} and all(process.poll() is None for process in self.processes.values())
        except (requests.RequestException, ValueError, KeyError):
            return False

    def kennel(self, *arguments: str) -> Any:
        """Run the command line; returns the JSON that it prints."""
        done = subprocess.run(
            ["kennel", *arguments, "--json"],
            env=self.env,
            check=False,
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode in {0, 1, 5}, f"kennel {' '.join(arguments)}: {done.stderr}"
        return json.loads(done.stdout)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a program with the stack's environment."""
        return subprocess.run(
            argv, cwd=ROOT, env=self.env, check=False, capture_output=True, text=True, timeout=60
        )

    def units(self) -> dict[str, str]:
        """The units that run, with their states."""
        with Systemd(self.settings.bus) as systemd:
            return systemd.units()

    def get(self, host: str, path: str = "/") -> Answer:
        """Ask as a browser does: once more when the connection ends before there is an answer."""
        try:
            return self.caddy.request(host, path)
        except ConnectionError:
            return self.caddy.request(host, path)

    def says(self, host: str) -> str:
        """What a host answers; its status when that is not 200."""
        answer = self.get(host)
        return answer.body.decode() if answer.status == 200 else str(answer.status)

    def build(self, number: int) -> Build:
        """A row of the builds."""
        with db.connection():
            return builds.get(number)

    def build_log(self, number: int) -> str:
        """The log of a build."""
        with db.connection():
            return builds.full_log(number)

    def wait_for(self, number: int, status: str = "done", timeout: float = 60) -> Build:
        """Wait until a build has this status."""

        def there() -> Build | None:
            build = self.build(number)
            ended = build.status in {"done", "failed", "cancelled"}
            assert build.status == status or not ended, (
                f"{build.status}: {build.error}\n{self.build_log(number)}"
            )
            return build if build.status == status else None

        return until(there, timeout=timeout, what=f"build {number} is {status}")


@dataclasses.dataclass
class Remote:
    """A registered project and the forge that has its repository."""

    stack: Stack
    name: str
    repository: GitRepository
    secret: str

    @property
    def full_name(self) -> str:
        return f"acme/{self.name}"

    def host(self, item: str, slug: str = "main") -> str:
        return f"{self.name}-{item}-{slug}.localhost"

    def push(self, content: dict[str, str | bytes | None], ref: str = "main") -> str:
        """Commit and push; returns the commit."""
        commit = self.repository.commit(content)
        self.repository.push(ref)
        return commit

    def deliver(self, document: dict[str, Any], event: str = "push", delivery: str = "") -> requests.Response:
        """Send an event, signed, as Forgejo does."""
        body = deliveries.encoded(document)
        headers = deliveries.headers(self.secret, body, event, delivery)
        return requests.post(f"{self.stack.url}/webhook", data=body, headers=headers, timeout=20)

    def pushed(self, commit: str, branch: str = "main", delivery: str = "") -> int:
        """Say that a branch is at a commit; returns the number of the build."""
        document = deliveries.push(f"refs/heads/{branch}", commit, self.full_name)
        answer = self.deliver(document, "push", delivery)
        assert answer.status_code == 202, answer.text
        return int(answer.json()["build"])

    def pull_request(self, action: str, number: int, commit: str) -> dict[str, Any]:
        """Say what happened to a pull request; returns the answer."""
        document = deliveries.pull_request(action, number, commit, self.full_name)
        answer = self.deliver(document, "pull_request")
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def deploy(self, version: str, branch: str = "main", **options: Any) -> int:
        """Push a version and wait until it is live; returns the number of the build."""
        number = self.pushed(self.push(files(version, **options), branch), branch)
        self.stack.wait_for(number)
        return number


@contextmanager
def running(
    home: Path, state: Path, redis: RedisServer, caddy: CaddyServer, systemd: PrivateSystemd
) -> Iterator[Stack]:
    """Make a stack and end what the block has started of it; the services it runs end with systemd."""
    stack = Stack(home, state, redis, caddy, systemd)
    stack.prepare()
    try:
        yield stack
    finally:
        stack.end()


@pytest.fixture(scope="session")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("stack")
    with ExitStack() as cleaning:
        systemd = cleaning.enter_context(private_systemd())
        redis = RedisServer(_made(home / "redis"))
        redis.start()
        cleaning.callback(redis.kill)
        caddy = CaddyServer(programs()[-1], _made(home / "caddy"))
        caddy.ask.close()
        stack = cleaning.enter_context(running(home, home / "state", redis, caddy, systemd))
        asked = f"{stack.url}/internal/caddy/check-domain"
        caddy.config = json.loads(json.dumps(caddy.config).replace(caddy.ask.url, asked))
        cleaning.callback(caddy.kill)
        caddy.start()
        stack.start()
        until(stack.is_whole, timeout=60, what="the stack is ready")
        yield stack


@pytest.fixture
def stack(_stack: Stack) -> Iterator[Stack]:
    """The session's, with everything running and answering; nothing may log a traceback meanwhile."""
    db.configure(_stack.settings.database)
    _stack.start()
    until(_stack.is_whole, timeout=60, what="the stack is whole")
    before = _stack.tracebacks()
    yield _stack
    assert _stack.tracebacks()[len(before) :] == []


@pytest.fixture
def remote(stack: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Remote]:
    """A project of this test's own; afterwards it is removed, with all that it made."""
    name = f"t{naming.digest(request.node.name)}"
    repository = GitRepository(tmp_path / "git")
    yield registered(stack, name, repository)
    with db.connection():
        projects.remove(projects.find(f"acme/{name}"))
    with contextlib.suppress(AssertionError):
        stack.kennel("reconcile")


def registered(stack: Stack, name: str, repository: GitRepository) -> Remote:
    """Register a repository as a project."""
    with db.connection():
        project = projects.add(f"acme/{name}", repository.url, "main")
        secret = projects.webhook_secret(project, stack.settings.secret_key_file)
    return Remote(stack, name, repository, secret)


SmallStack = Callable[[Path, Path], contextlib.AbstractContextManager[Stack]]


@pytest.fixture
def small_stack(
    own_redis: RedisServer, systemd: PrivateSystemd, manager: Systemd, tmp_path: Path
) -> Iterator[SmallStack]:
    """Makes a stack with a database, a Redis and a Caddy of its own, of which no process runs yet.

    It runs services in the session's systemd; `manager` stops them afterwards.
    """
    caddy = CaddyServer(programs()[0], _made(tmp_path / "caddy"))
    caddy.start()

    def start(home: Path, state: Path) -> contextlib.AbstractContextManager[Stack]:
        return running(home, state, own_redis, caddy, systemd)

    yield start
    caddy.kill()
    caddy.ask.close()


def _made(path: Path) -> Path:
    path.mkdir()
    return path
