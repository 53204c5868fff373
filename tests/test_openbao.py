"""OpenBao's key-value engine, on the real server: logging in, reading, writing, and everything it refuses."""

import base64
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kennel_core import provider
from kennel_core.adapters.openbao import PARALLEL, Entry, OpenBao
from kennel_core.errors import ConfigError, Rejected, Unavailable
from kennel_core.settings import Settings
from tests.servers.openbao import OpenBaoServer
from tests.servers.ports import free_port
from tests.servers.upstream import Handler, upstream
from tests.waiting import until


@pytest.fixture
def reader(openbao: OpenBaoServer, settings: Settings) -> OpenBao:
    return OpenBao(openbao.settings(settings))


@pytest.fixture
def writer(openbao: OpenBaoServer, settings: Settings) -> OpenBao:
    return OpenBao(openbao.settings(settings, policy="write-secrets"))


def at(settings: Settings, url: str, **options: Any) -> OpenBao:
    """Give a client of somebody at a local port, with a token."""
    found = settings.model_copy(update={"secrets": f"openbao://{url}?tls=false", **options})
    return OpenBao(found, {"BAO_TOKEN": "s.token"}, timeout=1)


# --- reading ---


def test_entries_are_read_with_their_versions_and_missing_ones_are_none(
    openbao: OpenBaoServer, reader: OpenBao
) -> None:
    openbao.put("shared/read/a", x="1", y="é\n")
    openbao.put("shared/read/b", "old")
    openbao.put("shared/read/b", "new")
    openbao.put("shared/read/gone", "x")
    openbao.call("DELETE", "secret/data/shared/read/gone")
    openbao.put("shared/read/destroyed", "x")
    openbao.call("PUT", "secret/destroy/shared/read/destroyed", versions=[1])
    paths = [f"shared/read/{name}" for name in ("a", "b", "gone", "destroyed", "never")]

    assert list(reader.read(paths).values()) == [
        Entry({"x": "1", "y": "é\n"}, 1), Entry({"value": "new"}, 2), None, None, None,
    ]  # fmt: skip
    assert list(reader.versions(paths).values()) == [1, 2, None, None, None]


def test_version_1_of_the_engine_is_read_and_written(openbao: OpenBaoServer, settings: Settings) -> None:
    found = OpenBao(openbao.settings(settings, policy="write-secrets", mount="kv1", kv="1"))

    assert found.write("one/a", {"value": "x"})
    assert found.write("one/a", {"other": "y"})
    assert not found.write("one/a", {"value": "x"})
    assert found.read(["one/a", "one/b"]) == {
        "one/a": Entry({"value": "x", "other": "y"}, None),
        "one/b": None,
    }


@pytest.mark.parametrize(("mount", "kv"), [("kv1", "2"), ("secret", "1"), ("nowhere", "2")])
def test_a_wrong_mount_or_version_is_said_and_is_no_missing_secret(
    openbao: OpenBaoServer, settings: Settings, mount: str, kv: str
) -> None:
    openbao.call("PUT", "sys/policies/acl/anything", policy='path "*" { capabilities = ["read", "create"] }')
    openbao.call("POST", "kv1/shared/wrong", value="x")
    found = OpenBao(openbao.settings(settings, policy="anything", mount=mount, kv=kv))

    if mount == "kv1":  # to version 1, the path is just another one
        assert found.read(["shared/wrong"]) == {"shared/wrong": None}
        return
    with pytest.raises(Rejected, match="KENNEL_SECRETS"):
        found.read(["shared/wrong"])


def test_many_secrets_cost_one_login_and_one_read_for_each_path(settings: Settings) -> None:
    asked: list[str] = []
    with upstream(counting(asked)) as port:
        found = OpenBao(
            settings.model_copy(update={"secrets": f"openbao://127.0.0.1:{port}?tls=false&auth=approle"}),
            {"BAO_ROLE_ID": "r", "BAO_SECRET_ID": "s"},
        )
        found.read([f"shared/{number % 20}" for number in range(100)])
        found.versions(["shared/1"])

    assert asked.count("/v1/auth/approle/login") == 1
    assert len(asked) == len(set(asked)) == 22


def counting(asked: list[str]) -> Callable[[Handler], None]:
    """Answer as OpenBao does, and note what was asked."""

    def answer(handler: Handler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        asked.append(handler.path)
        data = {
            "data": {"value": "x"},
            "metadata": {"version": 1},
            "current_version": 1,
            "versions": {"1": {}},
        }
        reply(handler, 200, {"auth": {"client_token": "s.x", "lease_duration": 3600}, "data": data})

    return answer


def reply(handler: Handler, status: int, body: object, kind: str = "application/json") -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def test_threads_share_one_login(openbao: OpenBaoServer, reader: OpenBao) -> None:
    openbao.put("shared/threads", "x")
    before = openbao.logins()
    failed: list[BaseException] = []

    def read() -> None:
        try:
            reader.read(["shared/threads"])
        except BaseException as exc:
            failed.append(exc)
            raise

    threads = [threading.Thread(target=read) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failed
    assert openbao.logins() == before + 1


# --- writing ---


def test_a_value_is_written_only_when_it_is_another_one(openbao: OpenBaoServer, writer: OpenBao) -> None:
    path = "secretspec/write/prod/KEY"

    assert [writer.write(path, {"value": value}) for value in ("a", "a", "b", "b")] == [
        True,
        False,
        True,
        False,
    ]
    assert writer.read([path]) == {path: Entry({"value": "b"}, 2)}


def test_other_fields_of_an_entry_stay(openbao: OpenBaoServer, writer: OpenBao) -> None:
    openbao.put("secretspec/write/prod/MORE", value="a", note="of the operator")

    writer.write("secretspec/write/prod/MORE", {"value": "b"})

    entry = writer.read(["secretspec/write/prod/MORE"])["secretspec/write/prod/MORE"]
    assert entry == Entry({"value": "b", "note": "of the operator"}, 2)


def test_a_deleted_entry_is_written_anew(openbao: OpenBaoServer, writer: OpenBao) -> None:
    openbao.put("secretspec/write/prod/GONE", "a")
    openbao.call("DELETE", "secret/data/secretspec/write/prod/GONE")

    assert writer.write("secretspec/write/prod/GONE", {"value": "a"})
    assert writer.versions(["secretspec/write/prod/GONE"]) == {"secretspec/write/prod/GONE": 2}


def test_a_role_that_only_reads_cannot_write(reader: OpenBao) -> None:
    with pytest.raises(Rejected, match=r"write secret/secretspec/write/prod/NO: 403 .*policy"):
        reader.write("secretspec/write/prod/NO", {"value": "x"})


def test_a_value_of_40_megabytes_is_refused_by_the_server(writer: OpenBao) -> None:
    with pytest.raises(Rejected, match="too large"):
        writer.write("secretspec/write/prod/BIG", {"value": "x" * 40_000_000})


# --- logging in ---


def test_a_revoked_token_is_replaced_by_one_new_login(openbao: OpenBaoServer, reader: OpenBao) -> None:
    openbao.put("shared/revoked", "x")
    reader.read(["shared/revoked"])
    openbao.revoke_logins()
    before = openbao.logins()

    found = reader.read([f"shared/revoked{n}" for n in ("", *range(30))])

    assert found["shared/revoked"] == Entry({"value": "x"}, 1)
    assert openbao.logins() == before + 1


def test_a_token_is_renewed_in_time_and_replaced_when_it_cannot_be(
    openbao: OpenBaoServer, settings: Settings
) -> None:
    openbao.put("shared/expiring", "x")
    openbao.revoke_logins()
    found = OpenBao(openbao.settings(settings, token_ttl="2s", token_max_ttl="3s"))
    seen: set[str] = set()
    began = time.monotonic()

    def passed() -> bool:
        assert found.read(["shared/expiring"])["shared/expiring"] == Entry({"value": "x"}, 1)
        seen.add(found._client.token)
        return time.monotonic() - began > 4

    until(passed, timeout=30, interval=0.2)

    assert len(seen) == 2  # renewed until its maximum, then one new login


def test_a_token_that_expired_while_nobody_asked_is_replaced(
    openbao: OpenBaoServer, settings: Settings
) -> None:
    openbao.put("shared/expired", "x")
    found = OpenBao(openbao.settings(settings, token_ttl="1s", token_max_ttl="1s"))
    found.read(["shared/expired"])
    token = found._client.token
    until(lambda: not openbao.request("GET", "auth/token/lookup-self", **{"X-Vault-Token": token}).ok)

    assert found.read(["shared/expired"])["shared/expired"] == Entry({"value": "x"}, 1)


def test_a_given_token_is_read_again_when_it_is_refused(
    openbao: OpenBaoServer, settings: Settings, tmp_path: Path
) -> None:
    openbao.put("shared/token", "x")

    def token() -> str:
        made = openbao.call("POST", "auth/token/create", policies=["read-secrets"], ttl="1h")
        return str(made["auth"]["client_token"])

    file = tmp_path / "token"
    file.write_text(token())
    found = OpenBao(
        settings.model_copy(update={"secrets": openbao.uri(auth="token"), "secrets_token_file": file})
    )
    found.read(["shared/token"])
    openbao.call("POST", "auth/token/revoke", token=file.read_text())
    with pytest.raises(Rejected, match="403"):
        found.read(["shared/token"])
    file.write_text(token() + "\n")

    assert found.read(["shared/token"])["shared/token"] == Entry({"value": "x"}, 1)


def test_a_jwt_logs_in(openbao: OpenBaoServer, settings: Settings, tmp_path: Path) -> None:
    openbao.put("shared/jwt", "x")
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    public = subprocess.run(
        ["openssl", "rsa", "-in", key, "-pubout"], check=True, capture_output=True, text=True
    )
    openbao.call("POST", "sys/auth/tokens/forge", type="jwt")
    openbao.call("POST", "auth/tokens/forge/config", jwt_validation_pubkeys=[public.stdout])
    openbao.call(
        "POST",
        "auth/tokens/forge/role/kennel",
        role_type="jwt",
        bound_audiences=["bao"],
        user_claim="sub",
        token_policies=["read-secrets"],
    )
    file, now = tmp_path / "jwt", int(time.time())
    file.write_text(signed(key, {"sub": "kennel", "aud": "bao", "nbf": now - 60, "exp": now + 600}))
    uri = openbao.uri(auth="jwt", auth_mount="tokens/forge", role="kennel")
    given = settings.model_copy(update={"secrets": uri, "secrets_jwt_file": file})

    assert OpenBao(given).read(["shared/jwt"])["shared/jwt"] == Entry({"value": "x"}, 1)
    file.write_text("not.a.jwt")
    with pytest.raises(Rejected, match=r"log in: 400 .*jwt credentials"):
        OpenBao(given).read(["shared/jwt"])


def signed(key: Path, claims: dict[str, Any]) -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    text = f"{part(json.dumps({'alg': 'RS256', 'typ': 'JWT'}).encode())}.{part(json.dumps(claims).encode())}"
    argv = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    done = subprocess.run(argv, input=text.encode(), check=True, capture_output=True)
    return f"{text}.{part(done.stdout)}"


def test_credentials_come_from_the_environment_too(openbao: OpenBaoServer, settings: Settings) -> None:
    openbao.put("shared/environment", "x")
    role_id, secret_id = openbao.role()
    given = settings.model_copy(update={"secrets": openbao.uri(auth="approle")})
    path = "shared/environment"

    for environ in (
        {"BAO_ROLE_ID": role_id, "BAO_SECRET_ID": secret_id, "VAULT_ROLE_ID": "x", "VAULT_SECRET_ID": "x"},
        {"VAULT_ROLE_ID": role_id, "VAULT_SECRET_ID": secret_id, "BAO_ROLE_ID": ""},
    ):
        assert OpenBao(given, environ).read([path])[path] == Entry({"value": "x"}, 1)


def test_the_environment_of_the_process_gives_no_token_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "s.not-for-approle")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    tokens = []

    def answer(handler: Handler) -> None:
        tokens.append(handler.headers.get("X-Vault-Token"))
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        reply(handler, 400, {"errors": ["no"]})

    with upstream(answer) as port:
        uri = f"openbao://127.0.0.1:{port}?tls=false&auth=approle"
        with pytest.raises(Rejected):
            OpenBao(settings.model_copy(update={"secrets": uri}), {"BAO_ROLE_ID": "x"}).read(["a"])

    assert tokens == [None]


@pytest.mark.parametrize(
    ("role_id", "secret_id", "said"),
    [("wrong", None, "400 .*approle credentials"), (None, "wrong", "400 .*approle credentials")],
)
def test_wrong_credentials_are_refused_and_are_not_in_the_message(
    openbao: OpenBaoServer, settings: Settings, role_id: str | None, secret_id: str | None, said: str
) -> None:
    right = openbao.role()
    environ = {"BAO_ROLE_ID": role_id or right[0], "BAO_SECRET_ID": secret_id or right[1]}
    given = settings.model_copy(update={"secrets": openbao.uri(auth="approle")})

    with pytest.raises(Rejected, match=f"log in: {said}") as caught:
        OpenBao(given, environ).read(["shared/x"])
    assert not any(value in str(caught.value) for value in environ.values() if value != "wrong")


@pytest.mark.parametrize(
    ("auth", "said"), [("approle", "KENNEL_SECRETS_ROLE_ID_FILE"), ("token", "KENNEL_SECRETS_TOKEN_FILE"),
                       ("jwt", "KENNEL_SECRETS_JWT_FILE")],
)  # fmt: skip
def test_credentials_that_are_not_there_name_the_setting(
    openbao: OpenBaoServer, settings: Settings, tmp_path: Path, auth: str, said: str
) -> None:
    given = settings.model_copy(update={"secrets": openbao.uri(auth=auth)})
    with pytest.raises(Rejected, match=f"set {said}"):
        OpenBao(given, {}).read(["shared/x"])
    with pytest.raises(Rejected, match=f"{said}: .*No such file"):
        OpenBao(given.model_copy(update={said.removeprefix("KENNEL_").lower(): tmp_path / "none"}), {}).read(
            ["x"]
        )


def test_what_the_policy_does_not_allow_is_refused_after_one_new_login(
    openbao: OpenBaoServer, reader: OpenBao
) -> None:
    openbao.put("elsewhere/x", "x")
    reader.read(["shared/x"])
    before = openbao.logins()

    with pytest.raises(Rejected, match=r"read secret/elsewhere/x: 403 .*policy of Kennel's role"):
        reader.read(["elsewhere/x"])
    assert openbao.logins() == before + 1


# --- a server that is not well ---


def test_a_server_is_unavailable_until_it_is_initialised_and_unsealed(
    own_openbao: OpenBaoServer, settings: Settings
) -> None:
    with pytest.raises(Unavailable, match="not initialised"):
        at(settings, f"127.0.0.1:{own_openbao.port}").read(["x"])
    own_openbao.initialise()
    own_openbao.put("shared/x", "x")
    found = OpenBao(own_openbao.settings(settings), timeout=1)
    fresh = OpenBao(own_openbao.settings(settings), timeout=1)
    found.read(["shared/x"])
    own_openbao.seal()
    for client in (found, fresh):
        with pytest.raises(Unavailable, match="unseal it"):
            client.read(["shared/x"])
    own_openbao.unseal()

    assert found.read(["shared/x"]) == fresh.read(["shared/x"]) == {"shared/x": Entry({"value": "x"}, 1)}


def test_a_frozen_and_then_a_killed_server_is_unavailable(
    own_openbao: OpenBaoServer, settings: Settings
) -> None:
    own_openbao.initialise()
    found = OpenBao(own_openbao.settings(settings), timeout=0.5)
    found.read(["shared/x"])
    own_openbao.freeze()
    with pytest.raises(Unavailable, match=r"no answer from http://.* within 0.5 s"):
        found.read(["shared/x"])
    own_openbao.kill()
    with pytest.raises(Unavailable, match="does it run"):
        found.versions(["shared/x"])


def silent(asked: list[str], closing: threading.Event) -> Callable[[Handler], None]:
    """Answer nothing before the test ends, and note what was asked."""

    def answer(handler: Handler) -> None:
        asked.append(handler.path)
        closing.wait(30)

    return answer


def test_threads_that_waited_for_a_login_that_failed_do_not_try_one_after_the_other(
    settings: Settings,
) -> None:
    asked: list[str] = []
    closing = threading.Event()
    failures: list[Unavailable] = []
    with upstream(silent(asked, closing)) as port:
        found = at(settings, f"127.0.0.1:{port}")

        def read() -> None:
            try:
                found.read(["shared/x"])
            except Unavailable as exc:
                failures.append(exc)

        threads = [threading.Thread(target=read) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        closing.set()

    assert len(failures) == 16
    assert len(asked) < 4  # one, and one for each thread that came too late for it


def test_a_server_that_falls_silent_is_not_asked_for_all_the_rest(settings: Settings) -> None:
    asked: list[str] = []
    closing = threading.Event()
    with upstream(silent(asked, closing)) as port:
        found = at(settings, f"127.0.0.1:{port}")
        found._login._token = "s.known"
        with pytest.raises(Unavailable, match="no answer"):
            found.read([f"shared/{number}" for number in range(500)])
        closing.set()

    assert len(asked) <= 2 * PARALLEL


def test_nobody_listens(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="cannot reach"):
        at(settings, f"127.0.0.1:{free_port()}").read(["x"])


@pytest.mark.parametrize("status", [200, 302, 403, 404, 500, 502, 503])
@pytest.mark.parametrize("body", [b"<html>login</html>", b"", b"[]", b"{"])
def test_an_answer_that_is_not_of_openbao_is_for_later(settings: Settings, status: int, body: bytes) -> None:
    with (
        upstream(lambda handler: reply(handler, status, body, "text/html")) as port,
        pytest.raises(Unavailable),
    ):
        at(settings, f"127.0.0.1:{port}").read(["x"])


@pytest.mark.parametrize("status", [429, 472, 473, 500, 502, 504])
def test_a_server_that_says_later_is_unavailable(settings: Settings, status: int) -> None:
    with upstream(lambda handler: reply(handler, status, {"errors": ["later"]})) as port:
        wanted = Unavailable if status not in {472, 473} else (Unavailable, Rejected)
        with pytest.raises(wanted, match="later"):
            at(settings, f"127.0.0.1:{port}").read(["x"])


@pytest.mark.parametrize("data", [{}, {"data": None}, {"data": {"data": 1}}, {"data": {"data": {"a": "b"}}}])
def test_json_of_another_shape_is_said(settings: Settings, data: object) -> None:
    with upstream(lambda handler: reply(handler, 200, data)) as port:
        with pytest.raises(Rejected, match="KV version 2"):
            at(settings, f"127.0.0.1:{port}").read(["x"])
        with pytest.raises(Unavailable, match="KV version 2"):
            at(settings, f"127.0.0.1:{port}").versions(["x"])


# --- the provider's URI ---


def test_the_uri_says_where_and_how() -> None:
    found = provider.parse(
        "openbao://team%2Fa@bao.example:8200/kv/apps?auth=approle&auth_mount=a/b&kv=1&tls=false", {}
    )

    assert (found.url, found.mount, found.namespace, found.kv) == (
        "http://bao.example:8200",
        "kv/apps",
        "team/a",
        1,
    )
    assert (found.auth, found.auth_mount) == ("approle", "a/b")


def test_what_the_uri_leaves_out_is_as_secretspec_has_it() -> None:
    found = provider.parse("openbao://bao.example", {"BAO_NAMESPACE": "n", "VAULT_NAMESPACE": "v"})
    vault = provider.parse(
        "vault://?auth=jwt", {"BAO_ADDR": "http://b", "VAULT_ADDR": "https://u:p@v:1/x", "BAO_NAMESPACE": "n"}
    )

    assert (found.url, found.mount, found.namespace) == ("https://bao.example", "secret", "n")
    assert (found.auth, found.auth_mount, found.kv, found.role) == ("token", "", 2, None)
    assert (vault.url, vault.namespace, vault.auth_mount) == ("https://v:1", None, "jwt")


@pytest.mark.parametrize(
    "uri",
    [
        "https://bao.example", "bao.example", "openbao://", "openbao://u:p@h", "openbao://h:x", "openbao://h:99999",
        "openbao://h?auth=ldap", "openbao://h?kv=3", "openbao://h/../x", "openbao://h/a%2F..%2Fb",
        "openbao://h?auth=jwt&auth_mount=../x", "openbao://h?field=x", "openbao://h?token=s.x",
    ],
)  # fmt: skip
def test_a_uri_that_is_none_is_refused_when_it_is_read(uri: str, settings: Settings) -> None:
    with pytest.raises(ConfigError, match="KENNEL_SECRETS: ") as caught:
        OpenBao(settings.model_copy(update={"secrets": uri}), {})
    assert "s.x" not in str(caught.value)
