"""Services that need something of other servers, from the build to the last trace: every server is real."""

import json
from pathlib import Path

import boto3
import psycopg
import pytest
import redis

from kennel_core import builds, db, deployments, projects, refs, resources
from kennel_core.models import BuildStatus, Deployment
from kennel_core.outputs import ServiceOutput
from kennel_core.reconcile import rotation
from kennel_core.reconcile.host import LocalHost
from tests.servers.caddy import programs
from tests.servers.garage import GarageServer
from tests.servers.keycloak import KeycloakServer, LoginRefused, Relay
from tests.servers.openbao import OpenBaoServer
from tests.servers.postgres import PostgresServer
from tests.servers.world import World

pytestmark = pytest.mark.parametrize("caddy_server", programs()[-1:], indirect=True, ids=["one-caddy"])
ALL = ("garage", "postgres", "valkey")
TELLS = """#!/usr/bin/python3
import json, os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        told = dict(os.environ)
        place = os.environ.get("CREDENTIALS_DIRECTORY", "")
        files = {name: open(f"{place}/{name}").read() for name in os.listdir(place)} if place else {}
        body = json.dumps([told, files]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

print("my secrets:", os.environ.get("TOKEN"), flush=True)
HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
SPECIFICATION = """
[project]
name = "shop"
revision = "1.0"
[profiles.default]
TOKEN = { description = "for the mail server" }
CERTIFICATE = { description = "of the mail server", as_path = true }
GREETING = { description = "how we greet", default = 'hello "$USER" `x` \\ there' }
[profiles.prod]
[profiles.preview]
"""


def specified(world: World) -> None:
    (world.store / "secretspec.toml").write_text(SPECIFICATION)


def tells(world: World, version: str = "one", name: str = "api") -> ServiceOutput:
    """A service that says what it was told; health is any answer."""
    return world.service(version, name, script=TELLS)


def told(world: World, ref: str = "main", name: str = "api") -> tuple[dict[str, str], dict[str, str]]:
    status, text = world.get(name, ref)
    assert status == 200, text
    variables, files = json.loads(text)
    return variables, files


def test_a_branch_gets_a_database_a_cache_and_a_bucket_of_its_own(equipped: World) -> None:
    for ref in ("main", "pr-1"):
        equipped.build(tells(equipped), ref=ref, needs=ALL)

    equipped.converge()

    found = {ref: told(equipped, ref)[0] for ref in ("main", "pr-1")}
    for ref, variables in found.items():
        with psycopg.connect(variables["DATABASE_URL"], autocommit=True) as connection:
            connection.execute("CREATE TABLE entries (text text)")
            connection.execute("INSERT INTO entries VALUES (%s)", [ref])
        storage = boto3.client(
            "s3",
            endpoint_url=variables["S3_ENDPOINT"],
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
            region_name=variables["S3_REGION"],
        )
        storage.put_object(Bucket=variables["S3_BUCKET"], Key="a", Body=b"b")
        storage.close()
        with redis.Redis.from_url(variables["REDIS_URL"]) as cache:
            cache.set("ref", ref)
            assert cache.dbsize() == 1
    for name in ("PGDATABASE", "S3_BUCKET", "VALKEY_URL"):
        assert found["main"][name] != found["pr-1"][name]
    assert equipped.is_settled()


def test_a_preview_that_is_closed_leaves_nothing_and_prod_keeps_its_data(
    equipped: World, postgres: PostgresServer
) -> None:
    for ref in ("main", "pr-1"):
        equipped.build(tells(equipped), ref=ref, needs=ALL)
    equipped.converge()
    kept, gone = (told(equipped, ref)[0] for ref in ("main", "pr-1"))

    with db.write():
        for ref in ("main", "pr-1"):
            refs.remove(equipped.project, ref, "closed", 0.0)
    equipped.converge()

    databases = {name for (name,) in postgres.query("SELECT datname FROM pg_database")}
    assert kept["PGDATABASE"] in databases
    assert gone["PGDATABASE"] not in databases
    assert {row.ref for row in resources.owned().values()} == {"main"}
    assert not list(equipped.settings.inputs_dir.iterdir())
    assert all("valkey" in name for name in equipped.units())


def test_what_a_service_is_told_is_nowhere_else(equipped: World) -> None:
    specified(equipped)
    build = equipped.build(tells(equipped), needs=("garage", "postgres"))

    equipped.converge()

    variables, files = told(equipped)
    assert variables["TOKEN"] == "token of prod"
    assert variables["GREETING"] == 'hello "$USER" `x` \\ there'
    assert files == {"CERTIFICATE": "-----BEGIN\nline two\n"}
    assert variables["CERTIFICATE"].endswith("/CERTIFICATE")
    hidden = [variables[name] for name in ("TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD")]
    database = Path(equipped.settings.database).read_bytes()
    database += Path(f"{equipped.settings.database}-wal").read_bytes()
    [unit] = equipped.units()
    shown = equipped.systemd.run("systemctl", "show", unit)
    for value in hidden:
        assert value.encode() not in database
        assert value not in shown
        assert value not in builds.full_log(build.id)
    [directory] = equipped.settings.inputs_dir.iterdir()
    assert {path.stat().st_mode & 0o077 for path in directory.rglob("*")} == {0}


def test_a_failed_start_shows_the_last_lines_without_secrets(equipped: World) -> None:
    specified(equipped)
    script = "#!/bin/sh\necho connecting with $TOKEN\nexit 3\n"
    build = equipped.build(equipped.service("bad", script=script, timeout=1))

    while equipped.status(build) == BuildStatus.BUILT:
        equipped.converge()

    assert "connecting with [redacted]" in builds.full_log(build.id)


def test_a_changed_secret_restarts_exactly_what_uses_it(equipped: World, openbao: OpenBaoServer) -> None:
    specified(equipped)
    for ref in ("main", "pr-1"):
        equipped.build(tells(equipped), ref=ref)
    equipped.converge()
    before = set(equipped.units())
    assert rotation.look(equipped.settings, equipped.doorbell, equipped.host).redeployed == []

    openbao.put("secretspec/shop/prod/TOKEN", "another token")
    [build_id] = rotation.look(equipped.settings, equipped.doorbell, equipped.host).redeployed
    equipped.converge()

    assert builds.get(build_id).status == BuildStatus.DONE
    assert "a secret was changed" in builds.full_log(build_id)
    assert told(equipped)[0]["TOKEN"] == "another token"
    assert len(before & set(equipped.units())) == 1
    assert told(equipped, "pr-1")[0]["TOKEN"] == "token of preview"
    assert rotation.look(equipped.settings, equipped.doorbell, equipped.host).redeployed == []
    assert equipped.is_settled()


def test_missing_secrets_are_named_all_at_once_and_the_old_version_goes_on(
    equipped: World, openbao: OpenBaoServer
) -> None:
    equipped.build(tells(equipped))
    equipped.converge()
    specified(equipped)
    openbao.call("DELETE", "secret/metadata/secretspec/shop/prod/TOKEN")
    openbao.call("DELETE", "secret/metadata/secretspec/shop/prod/CERTIFICATE")

    build = equipped.build(tells(equipped, "two"))
    equipped.converge()

    failed = builds.get(build.id)
    assert failed.status == BuildStatus.FAILED
    for name in ("TOKEN", "CERTIFICATE"):
        assert f"secret/secretspec/shop/prod/{name}" in (failed.error or "")
    assert "TOKEN" not in told(equipped)[0]


def test_a_namesake_gets_none_of_a_projects_secrets(equipped: World) -> None:
    equipped.build(tells(equipped))
    equipped.converge()
    specified(equipped)
    equipped.project = projects.add("evil/shop", "https://forge.example.org/evil/shop.git", "main")
    build = equipped.build(tells(equipped, "two"), ref="dev")

    equipped.converge()

    failed = builds.get(build.id)
    assert failed.status == BuildStatus.FAILED
    assert "acme/shop has the same name, and secrets are kept by it" in (failed.error or "")


def test_a_server_that_is_down_is_waited_for(equipped: World, openbao: OpenBaoServer) -> None:
    specified(equipped)
    silent = equipped.settings.model_copy(update={"postgres": "host=127.0.0.1 port=1 user=nobody"})
    working, equipped.host = equipped.host, LocalHost(silent)
    build = equipped.build(tells(equipped), needs=("postgres",))

    report = equipped.converge()

    assert [error for error in report.errors if "postgres" in error.lower()]
    assert equipped.status(build) == BuildStatus.BUILT
    equipped.host = working
    equipped.converge()
    assert equipped.status(build) == BuildStatus.DONE


def test_a_bucket_key_that_was_deleted_is_made_anew_and_told(
    equipped: World, garage_server: GarageServer
) -> None:
    equipped.build(tells(equipped), needs=("garage",))
    equipped.converge()
    before = told(equipped)[0]["AWS_ACCESS_KEY_ID"]

    garage_server.root("DeleteKey", {}, id=before)
    equipped.converge()

    assert told(equipped)[0]["AWS_ACCESS_KEY_ID"] != before
    assert equipped.is_settled()


def logs_in(world: World, version: str = "one") -> ServiceOutput:
    return tells(world, version).model_copy(update={"oidc": ["/callback"]})


def test_people_log_in_to_each_version_of_a_branch_until_it_is_closed(
    with_logins: World, keycloak: KeycloakServer, openbao: OpenBaoServer
) -> None:
    for ref in ("main", "pr-1"):
        with_logins.build(logs_in(with_logins), ref=ref)
    with_logins.converge()

    for ref, client_id in (("main", "shop"), ("pr-1", "shop-staging")):
        variables = told(with_logins, ref)[0]
        assert variables["OIDC_CLIENT_ID"] == client_id
        callback = f"https://shop-api-{ref}.localhost/callback"
        claims = keycloak.log_in(client_id, variables["OIDC_CLIENT_SECRET"], callback)
        assert claims["aud"] == client_id
    stored = openbao.call("GET", "secret/data/secretspec/shop/preview/OIDC_CLIENT_SECRET")
    assert stored["data"]["data"] == {"value": variables["OIDC_CLIENT_SECRET"]}
    assert with_logins.is_settled()

    with db.write():
        refs.remove(with_logins.project, "pr-1", "closed", 0.0)
    with_logins.converge()
    with pytest.raises(LoginRefused):
        keycloak.log_in("shop-staging", variables["OIDC_CLIENT_SECRET"], callback)

    with db.write():
        refs.remove(with_logins.project, "main", "gone", 0.0)
    with_logins.converge()
    assert keycloak.client_ids() == frozenset()


def test_a_service_starts_without_its_logins_and_gets_them_when_they_can_be_had(
    with_logins: World, relay: Relay
) -> None:
    port, relay.port = relay.port, 1  # nobody is there
    build = with_logins.build(logs_in(with_logins))
    with_logins.converge()
    assert with_logins.status(build) == BuildStatus.DONE
    assert "starts without its logins" in builds.full_log(build.id)
    assert "OIDC_CLIENT_ID" not in told(with_logins)[0]

    relay.port = port
    with_logins.converge()

    assert told(with_logins)[0]["OIDC_CLIENT_ID"] == "shop"
    assert with_logins.is_settled()


def test_logins_that_are_not_offered_are_a_warning(equipped: World) -> None:
    build = equipped.build(logs_in(equipped))

    equipped.converge()

    assert equipped.status(build) == BuildStatus.DONE
    assert "without its logins: this host offers none" in builds.full_log(build.id)
    assert equipped.is_settled()


def test_a_login_that_was_edited_by_hand_is_put_right(with_logins: World, keycloak: KeycloakServer) -> None:
    with_logins.build(logs_in(with_logins))
    with_logins.converge()
    keycloak.change("shop", redirectUris=["https://evil.example.org/*"])

    rotation.look(with_logins.settings, with_logins.doorbell, with_logins.host)

    hosts = ("shop-api-main.localhost", "shop-main.localhost")
    assert sorted(keycloak.client("shop")["redirectUris"]) == [f"https://{host}/callback" for host in hosts]


def test_a_resource_that_is_not_offered_fails_the_build_with_a_sentence(world: World) -> None:
    with pytest.raises(Exception, match="asks for garage, which this host does not offer") as caught:
        world.build(tells(world), needs=("garage",))

    assert "KENNEL_GARAGE_ADMIN" in str(caught.value)
    assert Deployment.select().count() == 0
    assert deployments.units() == frozenset()
