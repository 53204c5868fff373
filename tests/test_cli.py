"""The command line, run as people run it: as a process, against a database file and real neighbours."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from kennel_core import build_log, builds, db, deployments, lease, projects
from kennel_core.cli import kennel as group
from kennel_core.models import AuditEntry, Build, Deployment, Project
from kennel_core.outputs import Outputs, ServiceOutput
from kennel_core.settings import Settings
from tests.servers.caddy import CaddyServer
from tests.servers.git import GitRepository
from tests.servers.redis import RedisServer
from tests.servers.systemd import PrivateSystemd
from tests.servers.web import Gunicorn, environment
from tests.waiting import until

COMMIT = "a" * 40
PROGRAM = str(Path(sys.executable).with_name("kennel"))
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(settings: Settings) -> Cli:
    """Run ``kennel`` with the test's settings; returns the finished process."""
    return runner(settings)


def runner(settings: Settings) -> Cli:
    def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [PROGRAM, *arguments],
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def data(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def built(project: Project, settings: Settings, ref: str = "main") -> Build:
    """Bring a build of one service as far as a builder does."""
    with db.write():
        builds.enqueue(project, ref, COMMIT, time.time())
    build = lease.claim(time.time())
    assert build is not None
    service = ServiceOutput(
        name="api",
        store_path="/nix/store/x-api",
        command=["/nix/store/x-api/bin/api"],
        custom_domain=None,
        health_path=None,
        health_timeout=None,
    )
    outputs = Outputs(
        config_path="/nix/store/y-config",
        preview_deployments=True,
        resources=[],
        services=[service],
        sites=[],
    )
    lease.succeed(build, outputs, settings, time.time())
    return builds.get(build.id)


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """Give every command that does something, by the words that name it."""
    if not isinstance(command, click.Group):
        return {path: command}
    found: dict[tuple[str, ...], click.Command] = {}
    for name, inner in command.commands.items():
        found |= leaves(inner, (*path, name))
    return found


def test_every_command_can_print_json_and_says_what_it_does() -> None:
    for path, command in leaves(group).items():
        assert "--json" in {option for parameter in command.params for option in parameter.opts}, path
        assert command.help, path


# --- settings, database ---


def test_migrate_makes_a_database_and_a_secret_key_for_their_owner_alone(
    cli: Cli, settings: Settings
) -> None:
    first, second = data(cli("migrate", "--json")), data(cli("migrate", "--json"))

    assert first["secret_key_created"]
    assert not second["secret_key_created"]
    assert second["from"] == second["to"] == first["to"]
    assert {path.stat().st_mode & 0o777 for path in (settings.database, settings.secret_key_file)} == {0o600}


@pytest.mark.parametrize("command", [["project", "list"], ["build", "log", "1"], ["plan"], ["reconcile"]])
def test_without_a_database_nothing_is_done_and_migrate_is_named(
    cli: Cli, settings: Settings, command: list[str]
) -> None:
    done = cli(*command, status=78)

    assert "create it with `kennel migrate`" in done.stderr
    assert done.stdout == ""
    assert not settings.database.exists()


def test_wrong_settings_are_all_listed_with_status_2(settings: Settings) -> None:
    done = subprocess.run(
        [PROGRAM, "build", "list"],
        env=environment(settings)
        | {"KENNEL_MAX_BUILDS": "0", "KENNEL_BUILD_TIMEOUT": "soon", "KENNEL_BNID": "x"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 2
    for name in ("KENNEL_MAX_BUILDS: ", "KENNEL_BUILD_TIMEOUT: ", "did you mean KENNEL_BIND?"):
        assert name in done.stderr


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["build", "show", "x"], ["build", "list", "--limit", "0"]]
)
def test_wrong_usage_is_status_2(cli: Cli, arguments: list[str]) -> None:
    assert "Usage: kennel" in cli(*arguments, status=2).stderr


# --- projects ---


def test_a_project_is_added_shown_and_listed(cli: Cli, database_file: Path) -> None:
    added = data(
        cli("project", "add", "acme/shop", "--clone-url", "https://forge.example/acme/shop", "--json")
    )
    shown = data(cli("project", "show", "acme/shop", "--json"))
    listed = data(cli("project", "list", "--json"))

    assert re.fullmatch("[0-9a-f]{64}", added["webhook_secret"])
    assert added["webhook_url"].endswith("/webhook")
    assert "webhook_secret" not in shown
    assert [row["project"] for row in listed] == ["acme/shop"]
    assert shown.items() <= added.items()


def test_the_secret_is_shown_on_demand_and_another_after_it_was_rotated(
    cli: Cli, settings: Settings, database_file: Path
) -> None:
    with db.connection():
        projects.add("acme/shop", "https://forge.example/acme/shop", "main")
    before = data(cli("project", "show", "acme/shop", "--secret", "--json"))["webhook_secret"]
    rotated = data(cli("project", "rotate-secret", "acme/shop", "--json"))["webhook_secret"]
    after = data(cli("project", "show", "acme/shop", "--secret", "--json"))["webhook_secret"]

    assert before != rotated == after
    with db.connection():
        project = projects.find("acme/shop")
        assert projects.webhook_secret(project, settings.secret_key_file) == after


@pytest.mark.parametrize(
    ("name", "url", "status"),
    [
        ("acme", "https://forge.example/x", 4),
        ("acme/../x", "https://forge.example/x", 4),
        ("acme/--upload-pack=x", "https://forge.example/x", 4),
        ("acme/shop", "ext::sh -c touch% x", 2),
        ("acme/shop", "--upload-pack=touch x", 2),
        ("acme/shop", "ssh://forge.example/x", 2),
        ("acme/shop", "https://ada:secret@forge.example/x", 2),
        ("acme/shop", "https://forge.example/\x1b[2J", 2),
        ("acme/shop", "https:///x", 2),
    ],
)
def test_names_and_addresses_that_are_not_safe_are_refused(
    cli: Cli, database_file: Path, name: str, url: str, status: int
) -> None:
    done = cli("project", "add", name, f"--clone-url={url}", status=status)

    assert "\x1b" not in done.stderr
    with db.connection():
        assert Project.select().count() == 0


def test_a_project_twice_is_a_conflict_and_an_unknown_one_is_not_found(cli: Cli, project: Project) -> None:
    cli("project", "add", "acme/shop", "--clone-url", "https://forge.example/x", status=4)
    cli("project", "show", "acme/other", status=3)
    cli("webhook", "send", "acme/other", "main", status=3)


def test_removing_a_project_asks_first_and_takes_its_deployments_out_of_the_rows(
    cli: Cli, project: Project, settings: Settings
) -> None:
    built(project, settings)

    assert "--yes" in cli("project", "remove", "acme/shop", status=2).stderr
    assert data(cli("project", "remove", "acme/shop", "--yes", "--json")) == {
        "project": "acme/shop",
        "deployments": 1,
    }
    assert Deployment.select().count() == Build.select().count() == Project.select().count() == 0


# --- builds ---


def test_builds_are_listed_newest_first_and_by_ref(cli: Cli, project: Project) -> None:
    with db.write():
        for ref in ("main", "dev", "main"):
            builds.enqueue(project, ref, os.urandom(20).hex(), time.time())

    assert [row["id"] for row in data(cli("build", "list", "--json"))] == [3, 2, 1]
    assert [row["id"] for row in data(cli("build", "list", "--ref", "main", "--limit", "1", "--json"))] == [3]
    shown = data(cli("build", "show", "1", "--json"))
    assert (shown["status"], shown["error"]) == ("cancelled", "superseded by build 3")
    cli("build", "show", "4", status=3)


def test_a_waiting_build_is_cancelled_and_retried(
    own_redis: RedisServer, settings: Settings, project: Project
) -> None:
    cli = runner(settings.model_copy(update={"broker_url": own_redis.url}))
    with db.write():
        builds.enqueue(project, "main", COMMIT, time.time())

    assert data(cli("build", "cancel", "1", "--json"))["status"] == "cancelled"
    cli("build", "cancel", "1", status=4)
    assert data(cli("build", "retry", "1", "--json"))["id"] == 2
    cli("build", "retry", "1", status=4)
    with own_redis.client() as client:
        assert client.llen("builds") == 1


def test_a_build_is_retried_also_when_the_broker_is_gone(cli: Cli, project: Project) -> None:
    with db.write():
        builds.enqueue(project, "main", COMMIT, time.time())
    builds.cancel(1, time.time())

    assert data(cli("build", "retry", "1", "--json"))["status"] == "queued"


def test_a_log_is_followed_until_the_build_has_ended(settings: Settings, project: Project) -> None:
    with db.write():
        builds.enqueue(project, "main", COMMIT, time.time())
    build = lease.claim(time.time())
    assert build is not None
    lease.append_log(build, [("clone", "cloning\n")])
    process = subprocess.Popen(
        [PROGRAM, "build", "log", "-f", "1"],
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None

    seen = [process.stdout.readline(), process.stdout.readline()]
    lease.append_log(build, [("discover", "looking \x1b[2J\n")])
    seen += [process.stdout.readline(), process.stdout.readline()]
    lease.append_log(build, [("discover", "last words\n")])
    lease.fail(build, "discover: kennel.json is missing", time.time())
    rest, errors = process.communicate(timeout=30)

    assert process.returncode == 5
    assert b"".join(seen).decode().splitlines() + rest.decode().splitlines() == [
        "=== phase: clone ===",
        "cloning",
        "=== phase: discover ===",
        "looking \\x1b[2J",
        "last words",
    ]
    assert errors.decode() == "build 1: failed: discover: kennel.json is missing\n"


def test_a_followed_log_in_json_is_one_object_a_line_and_ends_with_the_build(
    cli: Cli, project: Project
) -> None:
    with db.write():
        builds.enqueue(project, "main", COMMIT, time.time())
    build = lease.claim(time.time())
    assert build is not None
    lease.append_log(build, [("clone", "cloning\n")])
    lease.cancelled(build, "cancelled by an operator", time.time())

    *logged, ending = [
        json.loads(line) for line in cli("build", "log", "1", "-f", "--json", status=5).stdout.splitlines()
    ]
    assert "".join(row["log"] for row in logged) == "=== phase: clone ===\ncloning\n"
    assert ending["status"] == "cancelled"


def on_terminal(settings: Settings, *arguments: str, **variables: str) -> str:
    """Run ``kennel`` on a terminal; returns what it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, *arguments],
        env=environment(settings) | {"TERM": "xterm-256color", "COLUMNS": "100"} | variables,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    process.wait(30)
    return shown.decode()


def test_a_terminal_shows_colours_and_the_times_of_phases(settings: Settings, project: Project) -> None:
    with db.write():
        builds.enqueue(project, "main", COMMIT, time.time())
    build = lease.claim(time.time())
    assert build is not None
    lease.append_log(build, [("clone", "cloning\n"), ("discover", "looking\n")])
    lease.fail(build, "discover: no", time.time())

    followed = on_terminal(settings, "build", "log", "1", "-f")
    assert "\x1b[1;36m── clone" in followed
    assert re.search(r"clone \d+\.\d s · discover \d+\.\d s", followed)
    assert "\x1b[31mfailed" in on_terminal(settings, "build", "list")
    assert "\x1b[" not in on_terminal(settings, "build", "list", NO_COLOR="1").replace("\x1b[1m", "").replace(
        "\x1b[0m", ""
    )


def test_a_reader_that_has_seen_enough_gets_no_complaint(settings: Settings, project: Project) -> None:
    with db.write():
        builds.enqueue(project, "main", COMMIT, time.time())
    build = lease.claim(time.time())
    assert build is not None
    lease.append_log(build, [("clone", "x" * 200_000 + "\n")])
    process = subprocess.Popen(
        [PROGRAM, "build", "log", "1"],
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr is not None

    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(30)


# --- deployments and passes ---


def test_deployments_are_listed_with_their_addresses(cli: Cli, project: Project, settings: Settings) -> None:
    built(project, settings)

    (row,) = data(cli("deployment", "list", "--json"))
    assert (row["name"], row["ref"], row["kind"], row["environment"]) == ("api", "main", "service", "prod")
    assert (row["status"], row["live_build"]) == ("starting", None)
    assert row["url"] == "https://shop-api-main.localhost"
    assert data(cli("deployment", "show", str(row["id"]), "--json")) == row
    assert data(cli("deployment", "list", "--ref", "dev", "--json")) == []
    cli("deployment", "show", "99", status=3)
    cli("deployment", "logs", "99", status=3)
    cli("deployment", "health", "99", status=3)


def test_a_neighbour_that_does_not_answer_is_named_with_status_69(
    cli: Cli, project: Project, settings: Settings
) -> None:
    built(project, settings)

    for command in (["plan"], ["reconcile"], ["deployment", "health", "1"]):
        assert "systemd" in cli(*command, status=69).stderr


def test_a_plan_says_what_a_pass_then_does_and_then_there_is_nothing_to_do(
    settings: Settings, systemd: PrivateSystemd, caddy: CaddyServer, database: Path, broker: RedisServer
) -> None:
    there = settings.model_copy(
        update={
            "bus": systemd.bus,
            "journal_dir": systemd.journal,
            "caddy_admin": caddy.admin,
            "broker_url": broker.url,
        }
    )
    cli = runner(there)
    script = systemd.dir / f"cli-{os.getpid()}"
    script.write_text("#!/bin/sh\necho started on $PORT\nexec sleep 600\n")
    script.chmod(0o755)
    project = projects.add("acme/shop", "https://forge.example/acme/shop", "main")
    build = built(project, there)
    told = {"digest": "", "versions": {}}
    Deployment.update(
        command=[str(script)], store_path=str(systemd.dir), config_path="/", inputs=told
    ).execute()

    before = data(cli("plan", "--json"))
    report = data(cli("reconcile", "--json"))

    (unit,) = report["started"]
    assert [(step["action"], step["what"]) for step in before] == [
        ("start", unit),
        ("route", "shop-api-main.localhost shop-main.localhost"),
    ]
    assert report["live"] == [build.id]
    assert data(cli("plan", "--json")) == []
    assert cli("plan").stderr == "nothing to do: the host is as the deployments say\n"
    assert data(cli("deployment", "health", "1", "--json"))["active"]
    until(lambda: "started on" in cli("deployment", "logs", "1").stdout)

    cli("project", "remove", "acme/shop", "--yes")
    assert [step["action"] for step in data(cli("plan", "--json"))] == ["unroute", "stop"]
    cli("reconcile")
    assert data(cli("plan", "--json")) == []


# --- webhooks ---


def test_a_sent_webhook_is_a_push_that_kennel_takes(web: Gunicorn, git_repo: GitRepository) -> None:
    cli = runner(web.settings)
    commit = git_repo.commit({"x": "1"})
    git_repo.push()
    git_repo.push("refs/pull/7/head")
    cli("project", "add", "acme/shop", "--clone-url", git_repo.url)

    pushed = data(cli("webhook", "send", "acme/shop", "main", "--json"))
    pulled = data(cli("webhook", "send", "acme/shop", "pr-7", "--json"))
    closed = data(cli("webhook", "send", "acme/shop", "pr-7", "--gone", "--json"))
    deleted = data(cli("webhook", "send", "acme/shop", "main", "--gone", "--json"))

    assert (pushed["http_status"], pushed["build"], pushed["commit"]) == (202, 1, commit)
    assert (pulled["build"], pulled["ref"]) == (2, "pr-7")
    assert (closed["status"], closed["ref"]) == ("removed", "pr-7")
    assert (deleted["status"], deleted["ref"]) == ("removed", "main")
    assert {row["status"] for row in data(cli("build", "list", "--json"))} == {"cancelled"}
    cli("webhook", "send", "acme/shop", "gone-branch", status=3)
    cli("webhook", "send", "acme/shop", "main", "--gone", "--commit", COMMIT, status=2)


def test_a_webhook_that_nobody_takes_names_the_address(
    cli: Cli, project: Project, settings: Settings
) -> None:
    done = cli(
        "webhook",
        "send",
        "acme/shop",
        "main",
        "--commit",
        COMMIT,
        "--url",
        "http://127.0.0.1:9/webhook",
        status=69,
    )

    assert "http://127.0.0.1:9/webhook" in done.stderr
    assert deployments.all_rows() == []
    assert build_log.chunks(1) == []


def test_a_preview_is_put_to_sleep_and_woken(cli: Cli, project: Project, settings: Settings) -> None:
    built(project, settings, "pr-7")
    built(project, settings)
    with db.write():
        Deployment.update(live={}).execute()
    cli("deployment", "start", "acme/shop", "pr-7", status=4)
    cli("deployment", "stop", "acme/shop", "topic", status=3)
    assert "never sleeps" in cli("deployment", "stop", "acme/shop", "main", status=4).stderr

    assert data(cli("deployment", "stop", "acme/shop", "pr-7", "--json"))["sleeps"] is True
    with db.write():
        for row in Deployment.select():
            Deployment.update(live=deployments.snapshot(row)).where(Deployment.id == row.id).execute()
    found = {row["ref"]: row["status"] for row in data(cli("deployment", "list", "--json"))}
    assert found == {"main": "live", "pr-7": "asleep"}
    assert "the next pass starts it" in cli("deployment", "start", "acme/shop", "pr-7").stdout
    entries = [(one.who.endswith("@host"), one.what, one.target) for one in AuditEntry.select()]
    assert entries == [(True, "stop", "acme/shop pr-7"), (True, "start", "acme/shop pr-7")]
