"""The local stack: start it, wait for it, look into it."""

import http.client
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from story import ROOT, STACK, Surprise, console

PROGRAM = ROOT / "deploy/dev/stack"
KENNEL = ("web", "follow", "builder", "reconciler", "beat", "flower")
SERVERS = ("postgres", "garage", "openbao", "keycloak")
NEIGHBOURS = ("systemd", "redis", "caddy", *SERVERS, "forge")


def start(names: tuple[str, ...], log: Path) -> subprocess.Popen[bytes]:
    """Run some of the Procfile's processes in the background, beyond the end of this program."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [PROGRAM, "up", *names],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def read_env() -> dict[str, str]:
    lines = (STACK / "env").read_text().splitlines()
    return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines) if value}


def run(*argv: str | Path, cwd: Path | None = None, said: str | None = None) -> str:
    """Run a program; `said` is its standard input."""
    done = subprocess.run(argv, cwd=cwd, check=False, capture_output=True, text=True, input=said, timeout=120)
    if done.returncode:
        raise Surprise(f"{' '.join(map(str, argv))}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def kennel(*arguments: str) -> str:
    return run(PROGRAM, "exec", "kennel", *arguments)


def wait_until(what: str, condition: Callable[[], object], timeout: float = 90) -> None:
    """Wait, with the elapsed time on a terminal."""
    began = time.monotonic()
    with console.status(what) as status:
        while not condition():
            if time.monotonic() - began > timeout:
                raise Surprise(f"{what}: not within {timeout:.0f} s; see {STACK}/*.log")
            time.sleep(0.1)
            status.update(f"{what} {time.monotonic() - began:.0f} s")
    console.print(f"  {what}: {time.monotonic() - began:.1f} s")


def answers(url: str) -> bool:
    """Tell whether a GET gets 200."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=5)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def is_ready(env: dict[str, str]) -> bool:
    return answers(f"http://{env['KENNEL_BIND']}/readyz")


def serve(env: dict[str, str]) -> bool:
    """Tell whether the servers that services need are ready."""
    running = env["STACK_SERVERS"].split()
    return (
        ("postgres" not in running or _logs_in(env["KENNEL_POSTGRES"], env["KENNEL_POSTGRES_PASSWORD_FILE"]))
        and ("garage" not in running or answers(f"{env['KENNEL_GARAGE_ADMIN']}/health"))
        and ("openbao" not in running or Path(env["KENNEL_SECRETS_SECRET_ID_FILE"]).exists())
        and ("keycloak" not in running or answers(f"{env['KENNEL_KEYCLOAK']}/health/ready"))
    )


def _logs_in(conninfo: str, password_file: str) -> bool:
    import psycopg  # noqa: PLC0415  # not where there is no PostgreSQL

    try:
        with psycopg.connect(conninfo, password=Path(password_file).read_text(), connect_timeout=5):
            return True
    except psycopg.OperationalError:
        return False


def below(pid: int) -> list[int]:
    """List a process and all it started, by their ids."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def running_units() -> set[str]:
    code = (
        "from kennel_core import settings; from kennel_core.adapters.systemd import Systemd\n"
        "with Systemd(settings.load().bus) as s: print(*s.units())"
    )
    return set(run(PROGRAM, "exec", "python", "-c", code).split())
