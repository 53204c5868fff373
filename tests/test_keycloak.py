"""OIDC clients in a real Keycloak: made, mended, removed, and what everybody else does meanwhile."""

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from kennel_core import oidc
from kennel_core.adapters.keycloak import Keycloak
from kennel_core.environment import Environment
from kennel_core.errors import ConfigError, Rejected, Unavailable
from kennel_core.oidc import Client, Login
from kennel_core.provision.oidc import Oidc, variables
from kennel_core.settings import Settings
from tests.servers.keycloak import PROGRAM, REALM, SERVICE_CLIENT, KeycloakServer, LoginRefused, Relay
from tests.servers.ports import free_port
from tests.waiting import until

CALLBACK = "https://shop-api-pr-{}.apps.example.org/auth/callback"


def staging(*previews: int) -> Client:
    """Give the client that the previews of these pull requests use."""
    logins = [
        Login(
            1,
            "shop",
            Environment.PREVIEW,
            (f"https://shop-api-pr-{n}.apps.example.org",),
            ("/auth/callback",),
        )
        for n in previews
    ] or [Login(1, "shop", Environment.PROD, ("https://shop.example.org",), ("/auth/callback",))]
    found = oidc.serving(oidc.clients(logins)[0], 1, Environment.PREVIEW)
    assert found
    return found


SHOP = staging(7, 8)


@pytest.fixture
def made(keycloak_settings: Settings) -> Oidc:
    return Oidc(keycloak_settings)


# --- logging in ---


def test_a_person_logs_in_through_a_preview_until_the_preview_is_gone(
    made: Oidc, keycloak: KeycloakServer
) -> None:
    secret = made.ensure(SHOP)

    claims = keycloak.log_in(SHOP.client_id, secret, CALLBACK.format(7))
    assert claims["aud"] == "shop-staging"
    assert claims["preferred_username"] == "alice"

    assert made.ensure(staging(8)) == secret
    with pytest.raises(LoginRefused, match="Invalid parameter: redirect_uri"):
        keycloak.log_in(SHOP.client_id, secret, CALLBACK.format(7))
    keycloak.log_in(SHOP.client_id, secret, CALLBACK.format(8))

    made.remove(SHOP.client_id, 1)
    with pytest.raises(LoginRefused, match="Client not found"):
        keycloak.log_in(SHOP.client_id, secret, CALLBACK.format(8))


@pytest.mark.parametrize("end", ["/", "?next=1", "/../x", "#x"])
def test_nothing_but_the_path_itself_is_redirected_to(made: Oidc, keycloak: KeycloakServer, end: str) -> None:
    secret = made.ensure(SHOP)

    with pytest.raises(LoginRefused):
        keycloak.log_in(SHOP.client_id, secret, CALLBACK.format(7) + end)


def test_a_client_without_deployments_redirects_nowhere(made: Oidc, keycloak: KeycloakServer) -> None:
    idle = staging()
    secret = made.ensure(idle)

    for uri in ("https://shop.example.org/auth/callback", "/", "https://evil.example.org/", keycloak.url):
        with pytest.raises(LoginRefused, match="redirect_uri"):
            keycloak.log_in(idle.client_id, secret, uri)


def test_a_service_gets_what_it_needs_to_find_keycloak(
    made: Oidc, keycloak: KeycloakServer, keycloak_settings: Settings
) -> None:
    public = keycloak_settings.model_copy(update={"keycloak": f"{keycloak.url}/"})
    secret = made.ensure(SHOP)
    given = variables(SHOP, secret, public)

    claims = keycloak.log_in(given["OIDC_CLIENT_ID"], given["OIDC_CLIENT_SECRET"], CALLBACK.format(7))
    assert (
        claims["iss"] == given["OIDC_ISSUER"] == f"{given['KEYCLOAK_URL']}/realms/{given['KEYCLOAK_REALM']}"
    )


def logins(relay: Relay) -> int:
    return sum(path.endswith("/token") for _method, path in relay.seen)


# --- made, mended, removed ---


def test_a_repeat_writes_nothing_and_a_change_is_one_write(made: Oidc, relay: Relay) -> None:
    secret = made.ensure(SHOP)
    assert relay.writes() == ["POST"]

    for client, writes in ((SHOP, []), (staging(8, 7), []), (staging(7), ["PUT"]), (SHOP, ["PUT"])):
        relay.forget()
        assert made.ensure(client) == secret
        assert relay.writes() == writes
        assert len(relay.seen) == 1 + 2 * len(writes)


DRIFT = [
    {"redirectUris": ["https://evil.example.org/*"], "publicClient": True, "enabled": False},
    {"redirectUris": [CALLBACK.format(7)]},
    {"webOrigins": ["*"]},
    {"attributes": {"post.logout.redirect.uris": "+"}},
    {"attributes": {"post.logout.redirect.uris": ""}},
    {"standardFlowEnabled": False},
    {"directAccessGrantsEnabled": True, "implicitFlowEnabled": True, "serviceAccountsEnabled": True},
    {"clientAuthenticatorType": "client-jwt"},
]


@pytest.mark.parametrize("fields", DRIFT, ids=",".join)
def test_what_somebody_changed_by_hand_is_put_right_with_one_write(
    made: Oidc, keycloak: KeycloakServer, relay: Relay, fields: dict[str, object]
) -> None:
    made.ensure(SHOP)
    keycloak.change(SHOP.client_id, **fields)
    assert made.present()[SHOP.client_id].differs(SHOP) == tuple(sorted(fields))
    relay.forget()

    secret = made.ensure(SHOP)

    assert relay.writes() == ["PUT"]
    assert made.present()[SHOP.client_id].differs(SHOP) == ()
    keycloak.log_in(SHOP.client_id, secret, CALLBACK.format(8))


def test_what_kennel_does_not_own_stays(made: Oidc, keycloak: KeycloakServer) -> None:
    made.ensure(SHOP)
    mapper = {
        "name": "groups",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-usermodel-attribute-mapper",
        "config": {"claim.name": "groups", "user.attribute": "email", "id.token.claim": "true"},
    }
    key = keycloak.client(SHOP.client_id)["id"]
    keycloak.admin("POST", f"/clients/{key}/protocol-mappers/models", mapper)
    keycloak.change(
        SHOP.client_id, description="by hand", attributes={"pkce.code.challenge.method": "S256", "mine": "1"}
    )

    secret = made.ensure(staging(7))

    assert keycloak.log_in(SHOP.client_id, secret, CALLBACK.format(7))["groups"] == "alice@example.org"
    found = keycloak.client(SHOP.client_id)
    assert found["description"] == "by hand"
    assert found["attributes"]["mine"] == "1"


def test_a_secret_that_was_rotated_is_read_anew_and_never_put_back(
    made: Oidc, keycloak: KeycloakServer
) -> None:
    old = made.ensure(SHOP)
    key = keycloak.client(SHOP.client_id)["id"]
    new = keycloak.admin("POST", f"/clients/{key}/client-secret")["value"]

    assert made.ensure(staging(7)) == made.secret(SHOP) == new != old
    keycloak.log_in(SHOP.client_id, new, CALLBACK.format(7))


def test_the_secret_is_read_alone_where_a_listing_hides_it(made: Oidc, relay: Relay) -> None:
    secret = made.ensure(SHOP)
    hidden = made.present()[SHOP.client_id].representation | {"secret": "**********"}
    relay.lies["/admin/realms/acme/clients?"] = (200, "application/json", _json([hidden]))

    assert made.ensure(SHOP) == made.secret(SHOP) == secret


def test_the_listing_tells_ours_from_others_in_one_request(
    made: Oidc, keycloak: KeycloakServer, relay: Relay
) -> None:
    keycloak.admin("POST", "/clients", {"clientId": "by-hand", "attributes": {"kennel.project": "shop"}})
    made.ensure(SHOP)
    relay.forget()

    found = made.present()

    assert len(relay.seen) == 1
    assert {name: (each.project_id, each.differs(SHOP)) for name, each in found.items()} == {
        "shop-staging": (1, ())
    }
    assert str(made.secret(SHOP)) not in repr(found)
    assert found["shop-staging"].differs(staging(7)) == ("attributes", "redirectUris", "webOrigins")


def test_removal_takes_the_client_and_is_quiet_the_second_time(
    made: Oidc, keycloak: KeycloakServer, relay: Relay
) -> None:
    made.ensure(SHOP)
    made.remove(SHOP.client_id, 1)
    assert keycloak.client_ids() == frozenset()
    assert made.secret(SHOP) is None
    relay.forget()

    made.remove(SHOP.client_id, 1)

    assert relay.writes() == []


def test_five_hundred_previews_are_one_write(made: Oidc, relay: Relay) -> None:
    many = staging(*range(1, 501))
    made.ensure(many)
    made.ensure(many)

    assert relay.writes() == ["POST"]
    assert made.present()[SHOP.client_id].differs(many) == ()


# --- others ---


@pytest.mark.parametrize("mark", [{}, {"kennel.project": "2"}, {"kennel.project": "one"}])
def test_a_client_that_is_not_the_projects_is_never_touched(
    made: Oidc, keycloak: KeycloakServer, relay: Relay, mark: dict[str, str]
) -> None:
    keycloak.admin("POST", "/clients", {"clientId": SHOP.client_id, "secret": "theirs", "attributes": mark})
    before = keycloak.client(SHOP.client_id)

    with pytest.raises(Rejected, match="Kennel did not make for shop: remove or rename it"):
        made.ensure(SHOP)
    assert made.secret(SHOP) is None
    made.remove(SHOP.client_id, 1)

    assert keycloak.client(SHOP.client_id) == before
    assert relay.writes() == []


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("what", ["create", "change", "remove"])
def test_a_crash_at_any_request_is_mended_by_doing_it_again(
    keycloak: KeycloakServer, relay: Relay, keycloak_settings: Settings, what: str, *, late: bool
) -> None:
    relay.late = late
    for number in range(10):
        keycloak.reset()
        if what != "create":
            Oidc(keycloak_settings).ensure(SHOP)
        relay.forget()
        relay.cut = number
        with contextlib.suppress(Unavailable):
            _do(what, Oidc(keycloak_settings))
        cut = len(relay.seen) > number
        relay.cut = -1

        _do(what, Oidc(keycloak_settings))
        relay.forget()
        _do(what, Oidc(keycloak_settings))

        assert relay.writes() == []
        assert keycloak.client_ids() == (frozenset() if what == "remove" else {SHOP.client_id})
        if not cut:
            break
    assert not cut
    assert number >= 3


def _do(what: str, made: Oidc) -> None:
    if what == "remove":
        made.remove(SHOP.client_id, 1)
    else:
        made.ensure(SHOP if what == "create" else staging(7))


def test_two_at_once_make_one_client(keycloak: KeycloakServer, keycloak_settings: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        for client in (SHOP, staging(9, 10, 11), SHOP):
            secrets = list(pool.map(lambda each: Oidc(keycloak_settings).ensure(each), [client] * 4))
            assert len(set(secrets)) == 1
            assert Oidc(keycloak_settings).present()[SHOP.client_id].differs(client) == ()
        list(pool.map(lambda number: Oidc(keycloak_settings).remove(SHOP.client_id, number), [1] * 4))
    assert keycloak.client_ids() == frozenset()


def test_one_object_serves_several_threads_with_one_login(made: Oidc, relay: Relay) -> None:
    clients = [replace(SHOP, client_id=f"shop-{number}") for number in range(8)]

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(made.ensure, clients))) == 8

    assert logins(relay) == 1


# --- rights ---


@pytest.mark.parametrize("roles", [(), ("query-clients",), ("view-clients",), ("create-client",)])
def test_a_missing_role_is_named(made: Oidc, keycloak: KeycloakServer, roles: tuple[str, ...]) -> None:
    keycloak.give_roles(*roles)

    with pytest.raises(Rejected, match=r"client kennel may not: .* role manage-clients"):
        made.ensure(SHOP)
    assert keycloak.client_ids() == frozenset()


def test_a_role_that_is_taken_away_meanwhile_is_named(made: Oidc, keycloak: KeycloakServer) -> None:
    made.ensure(SHOP)
    keycloak.give_roles("view-clients")

    assert made.ensure(SHOP)
    for act in (lambda: made.ensure(staging(7)), lambda: made.remove(SHOP.client_id, 1)):
        with pytest.raises(Rejected, match="manage-clients"):
            act()


def test_a_token_that_is_revoked_is_renewed_once(made: Oidc, keycloak: KeycloakServer, relay: Relay) -> None:
    made.ensure(SHOP)
    keycloak.revoke(relay.tokens[-1])
    relay.forget()

    made.ensure(staging(7))

    assert [path.rpartition("/")[2].partition("?")[0] for _method, path in relay.seen[:3]] == [
        "clients",
        "token",
        "clients",
    ]
    assert relay.writes()[-1:] == ["PUT"]


def test_a_token_is_renewed_before_it_expires(made: Oidc, keycloak: KeycloakServer, relay: Relay) -> None:
    keycloak.change(SERVICE_CLIENT[0], attributes={"access.token.lifespan": "1"})
    try:
        made.ensure(SHOP)
        relay.forget()
        until(lambda: made.ensure(SHOP) and logins(relay), what="it logs in again")
        assert made.ensure(SHOP)
    finally:
        keycloak.change(SERVICE_CLIENT[0], attributes={"access.token.lifespan": ""})


def test_a_new_token_that_is_refused_too_names_the_scope(made: Oidc, relay: Relay) -> None:
    relay.lies["/admin/"] = (401, "application/json", '{"error":"HTTP 401 Unauthorized"}')

    with pytest.raises(Rejected, match="kc-admin-api"):
        made.ensure(SHOP)
    assert [path.endswith("/token") for _method, path in relay.seen] == [True, False, True, False]


def test_a_wrong_secret_and_a_disabled_client_name_the_settings(
    made: Oidc, keycloak: KeycloakServer, keycloak_settings: Settings
) -> None:
    assert keycloak_settings.keycloak_secret_file
    right = keycloak_settings.keycloak_secret_file.read_text()
    keycloak_settings.keycloak_secret_file.write_text("wrong")
    with pytest.raises(Rejected, match="KENNEL_KEYCLOAK_SECRET_FILE") as refused:
        Oidc(keycloak_settings).present()
    assert "wrong" not in str(refused.value)

    keycloak_settings.keycloak_secret_file.write_text(right)
    keycloak.change(SERVICE_CLIENT[0], enabled=False)
    try:
        with pytest.raises(Rejected, match="disabled"):
            made.present()
    finally:
        keycloak.change(SERVICE_CLIENT[0], enabled=True)


def test_a_realm_that_is_not_there_is_named(keycloak_settings: Settings, relay: Relay) -> None:
    with pytest.raises(Rejected, match=r"Realm does not exist.*KENNEL_KEYCLOAK_REALM \(nope\)"):
        Oidc(keycloak_settings.model_copy(update={"keycloak_realm": "nope"})).present()

    relay.lies["/admin/"] = (404, "application/json", '{"error":"Realm not found."}')
    with pytest.raises(Rejected, match="KENNEL_KEYCLOAK_REALM"):
        Oidc(keycloak_settings).remove("shop", 1)


def test_missing_settings_are_named(keycloak_settings: Settings, tmp_path: Path) -> None:
    for change in ({"keycloak_realm": ""}, {"keycloak_secret_file": None}):
        with pytest.raises(ConfigError, match="KENNEL_KEYCLOAK_REALM and KENNEL_KEYCLOAK_SECRET_FILE"):
            Oidc(keycloak_settings.model_copy(update=change))
    with pytest.raises(ConfigError, match="No such file"):
        Oidc(keycloak_settings.model_copy(update={"keycloak_secret_file": tmp_path / "none"}))


# --- a server that does not answer, or is not Keycloak ---


LATER = [
    (500, "application/json", '{"error":"unknown_error"}', "500 unknown_error"),
    (503, "text/html", "<html>maintenance</html>", "503, and not in Keycloak's words"),
    (429, "application/json", '{"error":"slow down"}', "429 slow down"),
    (404, "text/html", "<html>nothing here</html>", "404, and not in Keycloak's words"),
    (403, "text/html", "<html>blocked</html>", "403, and not in Keycloak's words"),
    (302, "text/html", "", "it sends to"),
    (200, "text/html", "<html>welcome</html>", "not JSON"),
    (200, "application/json", '{"a": [1]}', "answer"),
    (200, "application/json", '"x"', "not what Keycloak answers"),
    (200, "application/json", "[1]", "answer"),
]


@pytest.mark.parametrize(("status", "kind", "text", "words"), LATER)
@pytest.mark.parametrize("where", ["/realms/", "/admin/"])
def test_an_answer_that_is_not_keycloaks_means_later(
    made: Oidc, relay: Relay, status: int, kind: str, text: str, words: str, where: str
) -> None:
    relay.lies[where] = (status, kind, text)

    for act in (lambda: made.ensure(SHOP), made.present, lambda: made.remove("shop", 1)):
        with pytest.raises(Unavailable, match=re.escape(words)):
            act()


def test_a_refusal_carries_keycloaks_words(made: Oidc) -> None:
    bad = replace(SHOP, redirect_uris=frozenset({"javascript:alert(1)"}))

    with pytest.raises(Rejected, match=r"create client shop-staging: 400 .*illegal scheme"):
        made.ensure(bad)


def test_a_client_that_never_stays_as_written_is_given_up(made: Oidc, relay: Relay) -> None:
    made.ensure(SHOP)
    other = made.present()[SHOP.client_id].representation | {"enabled": False}
    relay.lies["/admin/realms/acme/clients?"] = (200, "application/json", _json([other]))

    with pytest.raises(Unavailable, match="does not stay as it is written"):
        made.ensure(SHOP)


def test_a_server_that_is_down_means_later(keycloak_settings: Settings) -> None:
    down = keycloak_settings.model_copy(update={"keycloak": f"http://127.0.0.1:{free_port()}"})

    with pytest.raises(Unavailable, match=r"cannot reach .* does it run"):
        Oidc(down).ensure(SHOP)


def test_a_server_that_is_frozen_means_later(keycloak: KeycloakServer) -> None:
    client = Keycloak(keycloak.url, REALM, *SERVICE_CLIENT, timeout=0.3)
    with frozen(keycloak), pytest.raises(Unavailable, match=r"no answer from .* within 0\.3 s"):
        client.all()
    patient = Keycloak(keycloak.url, REALM, *SERVICE_CLIENT)
    patient.all()
    assert patient.find(SHOP.client_id) is None


def test_a_server_that_was_killed_gets_back_what_it_lost(keycloak: KeycloakServer, made: Oidc) -> None:
    made.ensure(SHOP)
    keycloak.kill()  # its database forgets the last second
    with pytest.raises(Unavailable):
        made.ensure(staging(7))
    keycloak.start()

    secret = made.ensure(staging(7))

    keycloak.log_in(SHOP.client_id, secret, CALLBACK.format(7))


@pytest.mark.parametrize(
    ("lacks", "says"),
    [("java", "java is missing"), ("mvn", "mvn is missing: install maven"), ("unzip", "unzip is missing")],
)
def test_the_set_up_says_in_one_line_what_it_lacks(tmp_path: Path, lacks: str, says: str) -> None:
    for name in {"bash", "dirname", "realpath", "sed", "java", "mvn", "unzip"} - {lacks}:
        (tmp_path / name).symlink_to(str(shutil.which(name)))

    done = subprocess.run(
        [PROGRAM.with_name("get-keycloak"), tmp_path / "cache"],
        env={"PATH": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 3
    assert done.stderr.startswith(f"get-keycloak: {says}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "cache").exists()


@contextlib.contextmanager
def frozen(server: KeycloakServer) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


def _json(value: object) -> str:
    return json.dumps(value)
