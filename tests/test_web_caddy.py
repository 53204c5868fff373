"""Which names Caddy may get a certificate for."""

import json

import pytest
from flask.testing import FlaskClient

from kennel_core import db, projects
from kennel_core.models import Build, Deployment
from kennel_core.settings import Settings
from kennel_web import create_app
from tests.recording_doorbell import RecordingDoorbell

CHECK = "/internal/caddy/check-domain"


@pytest.fixture
def client(settings: Settings, database_file) -> FlaskClient:
    with db.connection():
        project = projects.add("acme/shop", "https://forge.example.org/acme/shop.git", "main")
        build = Build.create(project=project, ref="main", commit="a" * 40)
        Deployment.create(
            project=project,
            ref="main",
            name="web",
            kind="site",
            environment="prod",
            build=build,
            commit=build.commit,
            store_path="/nix/store/x",
            config_path="/nix/store/y",
            host="shop-web-main.apps.example.org",
            alias_host="shop-main.apps.example.org",
            custom_domain="shop.example.com",
        )
    changed = settings.model_copy(update={"domain": "kennel.example.org", "base_domain": "apps.example.org"})
    return create_app(changed, RecordingDoorbell()).test_client()


@pytest.mark.parametrize(
    "domain",
    [
        "shop-web-main.apps.example.org",
        "shop-main.apps.example.org",
        "shop.example.com",
        "kennel.example.org",
        "SHOP.Example.com",
        "shop.example.com.",
    ],
)
def test_a_name_that_is_served_may_have_a_certificate(client: FlaskClient, domain: str) -> None:
    assert client.get(CHECK, query_string={"domain": domain}).status_code == 200


@pytest.mark.parametrize(
    "domain",
    [
        "apps.example.org",
        "x.apps.example.org",
        "other.shop.example.com",
        "example.com",
        "shop.example.com..",
        "*.example.com",
        "%",
        "shop_example.com",
        "shop.example.com:443",
        " shop.example.com",
        "shop.example.com\x00",
        "127.0.0.1",
        "é.example.com",
        "x" * 3000,
    ],
)
def test_no_other_name_may(client: FlaskClient, domain: str) -> None:
    answer = client.get(CHECK, query_string={"domain": domain})
    assert (answer.status_code, answer.content_type) == (404, "application/problem+json")


@pytest.mark.parametrize("query", ["", "?domain=", "?domain=.", "?host=shop.example.com"])
def test_without_a_name_the_question_is_wrong(client: FlaskClient, query: str) -> None:
    answer = client.get(CHECK + query)
    assert answer.status_code == 400
    assert "domain" in json.loads(answer.data)["detail"]


def test_the_answer_does_not_read_the_whole_table(client: FlaskClient) -> None:
    statements: list[tuple[str, list]] = []
    execute = db.database.execute_sql
    db.database.execute_sql = lambda sql, params=None, *rest: (
        statements.append((sql, params)) or execute(sql, params, *rest)
    )
    try:
        client.get(CHECK, query_string={"domain": "shop.example.com"})
    finally:
        del db.database.execute_sql
    with db.connection():
        for sql, params in statements:
            if sql.startswith("SELECT"):
                plan = [row[3] for row in db.database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", params)]
                assert not any(line.startswith("SCAN") for line in plan), plan
    assert any("custom_domain" in sql for sql, _ in statements)
