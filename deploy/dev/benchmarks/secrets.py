"""Secrets: a project's secretspec.toml resolved by Kennel and by secretspec, from one OpenBao by AppRole.

Both log in once and read in parallel; Kennel keeps its login for the next pass.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.rows import Bench, Row, Unmeasurable, median, row
from kennel_core.secrets import Secrets
from kennel_core.settings import Settings
from tests.servers.openbao import OpenBaoServer

COUNTS = (10, 50)  # secrets of a project
ROUNDS = 9
PATHS = 500

THEIRS = """
import json, sys, time
import secretspec
for line in sys.stdin:
    asked = json.loads(line)
    began = time.monotonic()
    found = secretspec.resolve(**asked, profile="prod", reason="a benchmark")
    print(json.dumps([time.monotonic() - began, len(found.secrets)]), flush=True)
"""


def measure(bench: Bench) -> Iterator[Row]:
    """Measure resolving, then looking for changes."""
    home = bench.home / "openbao"
    home.mkdir()
    server = OpenBaoServer(home)
    server.start()
    try:
        server.initialise()
        settings = server.settings(Settings(state_dir=bench.home / "state"))
        with _secretspec(settings, bench.home) as theirs:
            for count in COUNTS:
                yield _resolving(bench, server, settings, theirs, count)
        yield _looking(bench, server, settings)
    finally:
        server.kill()


@contextmanager
def _secretspec(settings: Settings, home: Path) -> Iterator[subprocess.Popen[str]]:
    """Run secretspec, which writes an audit log into its home."""
    files = (settings.secrets_role_id_file, settings.secrets_secret_id_file)
    role_id, secret_id = (file.read_text().strip() if file else "" for file in files)
    given = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "BAO_ROLE_ID": role_id,
        "BAO_SECRET_ID": secret_id,
    }
    argv = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", THEIRS]
    with (
        (home / "secretspec.log").open("w") as log,
        subprocess.Popen(
            argv, env=given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        yield process
        if process.stdin:
            process.stdin.close()


def _resolving(
    bench: Bench, server: OpenBaoServer, settings: Settings, theirs: subprocess.Popen[str], count: int
) -> Row:
    name = f"project{count}"
    names = [f"SECRET_{number}" for number in range(count)]
    text = f'[project]\nname = "{name}"\nrevision = "1.0"\n[profiles.prod]\n'
    text += "".join(f'{key} = {{ description = "one of many" }}\n' for key in names)
    (bench.home / name).mkdir()
    file = bench.home / name / "secretspec.toml"
    file.write_text(text)
    for key in names:
        server.put(f"secretspec/{name}/prod/{key}", "a value")
    asked = json.dumps({"path": str(file), "provider": settings.secrets})
    first, again, other = [], [], []
    logins = [0, 0]
    for number in range(ROUNDS):
        bench.say(f"{count} secrets, {number + 1} of {ROUNDS}")
        secrets = Secrets(settings)  # with no login yet
        before = server.logins()
        first.append(_seconds(secrets, text, name, count))
        logins[0] = server.logins() - before
        again.append(_seconds(secrets, text, name, count))
        before = server.logins()
        other.append(_their_seconds(theirs, asked, count))
        logins[1] = server.logins() - before
    pairs = [their / our for our, their in zip(first, other, strict=True)]
    later = [their / our for our, their in zip(again, other, strict=True)]
    return row(
        f"secrets: {count} resolved",
        f"{median(first) * 1000:.1f} ms with the login, {median(again) * 1000:.1f} ms in later passes",
        "",
        None,
        ratio=f"secretspec takes {median(pairs):.1f} and {median(later):.1f} times as long",
        why=f"median of {ROUNDS} interleaved rounds; secretspec {median(other) * 1000:.1f} ms. Logins: "
        f"Kennel {logins[0]} and then 0, secretspec {logins[1]}.",
    )


def _seconds(secrets: Secrets, text: str, project: str, count: int) -> float:
    began = time.monotonic()
    found = secrets.resolve(text, project, "prod")
    took = time.monotonic() - began
    if len(found.variables) != count:
        raise Unmeasurable(f"{len(found.variables)} of {count} secrets")
    return took


def _their_seconds(theirs: subprocess.Popen[str], asked: str, count: int) -> float:
    if theirs.stdin is None or theirs.stdout is None:
        raise Unmeasurable("secretspec has no pipes")
    theirs.stdin.write(asked + "\n")
    theirs.stdin.flush()
    answer = theirs.stdout.readline()
    if not answer:
        raise Unmeasurable("secretspec ended")
    took, found = json.loads(answer)
    if found != count:
        raise Unmeasurable(f"secretspec found {found} of {count} secrets")
    return float(took)


def _looking(bench: Bench, server: OpenBaoServer, settings: Settings) -> Row:
    bench.say(f"{PATHS} unchanged secrets")
    for number in range(PATHS):
        server.put(f"secretspec/many/prod/S{number}", "a value")
    versions = {f"secret/secretspec/many/prod/S{number}": 1 for number in range(PATHS)}
    secrets = Secrets(settings)
    took = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        if secrets.changed(versions):
            raise Unmeasurable("a secret that nobody changed was taken for changed")
        took.append(time.monotonic() - began)
    return row(
        f"secrets: {PATHS} unchanged ones looked at",
        f"{median(took) * 1000:.0f} ms, {median(took) / PATHS * 1000:.2f} ms each",
        "",
        None,
        why="one read of metadata for each path, none of a secret.",
    )
