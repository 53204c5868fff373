"""A project's secrets, from its secretspec.toml and the real OpenBao to what a service gets."""

import base64
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kennel_core import db, projects
from kennel_core.errors import BuildFailed, ConfigError, Rejected, Unavailable
from kennel_core.models import Build, Deployment, Project
from kennel_core.secrets import Resolved, Secrets
from kennel_core.settings import Settings
from tests.servers.openbao import OpenBaoServer
from tests.test_cli import runner

X = "description = 'x'"


def spec(project: str, *lines: str, profile: str = "prod") -> str:
    head = f'[project]\nname = "{project}"\nrevision = "1.0"\n[profiles.{profile}]\n'
    return head + "\n".join(lines) + "\n"


@pytest.fixture
def configured(openbao: OpenBaoServer, settings: Settings) -> Settings:
    return openbao.settings(settings)


@pytest.fixture
def secrets(configured: Settings) -> Secrets:
    return Secrets(configured)


def refusal(resolve: Callable[[], Resolved]) -> str:
    with pytest.raises(BuildFailed) as caught:
        resolve()
    assert caught.value.phase == "secrets"
    return str(caught.value)


def test_a_service_gets_variables_and_files_and_the_versions_that_were_looked_at(
    openbao: OpenBaoServer, secrets: Secrets
) -> None:
    openbao.put("secretspec/web/prod/TOKEN", "one\n'two' \"three\" $HOME \\")
    openbao.put("secretspec/web/prod/TOKEN", "one\n'two' \"three\" $HOME \\")
    openbao.put("secretspec/web/prod/KEY", base64.b64encode(b"\x00\xff").decode())
    openbao.put("secretspec/web/default/LATER", "is prod's alone, and not there")
    openbao.put("shared/mail", user="u", password="p")
    text = spec(
        "web",
        f"TOKEN = {{ {X} }}",
        f"KEY = {{ {X}, as_path = true, encoding = 'base64' }}",
        f"LATER = {{ {X}, default = 'soon' }}",
        f"USER = {{ {X}, ref = {{ item = 'shared/mail', field = 'user' }} }}",
        f"PASSWORD = {{ {X}, ref = {{ item = 'shared/mail', field = 'password' }} }}",
        f"URL = {{ {X}, composed = 'smtp://${{USER}}:${{PASSWORD}}@mail' }}",
        f"NONE = {{ {X}, required = false }}",
    )

    assert secrets.resolve(text, "web", "prod") == Resolved(
        variables={
            "TOKEN": "one\n'two' \"three\" $HOME \\",
            "LATER": "soon",
            "USER": "u",
            "PASSWORD": "p",
            "URL": "smtp://u:p@mail",
        },
        files={"KEY": b"\x00\xff"},
        versions={
            "secret/secretspec/web/prod/TOKEN": 2,
            "secret/secretspec/web/prod/KEY": 1,
            "secret/secretspec/web/prod/LATER": 0,
            "secret/secretspec/web/prod/NONE": 0,
            "secret/shared/mail": 1,
        },
    )


def test_no_value_is_in_what_is_printed_of_them(openbao: OpenBaoServer, secrets: Secrets) -> None:
    openbao.put("secretspec/printed/prod/A", "hunter2")
    openbao.put("secretspec/printed/prod/F", "hunter2")
    text = spec(
        "printed", f"A = {{ {X} }}", f"F = {{ {X}, as_path = true }}", f"C = {{ {X}, composed = '${{F}}' }}"
    )

    found = secrets.resolve(text, "printed", "prod")

    assert "hunter2" not in repr(found)
    assert found.environment("/d") == {"A": "hunter2", "F": "/d/F", "C": "/d/F"}


# --- what is missing ---


def test_all_that_is_missing_is_in_one_message_with_its_path(
    openbao: OpenBaoServer, secrets: Secrets
) -> None:
    openbao.put("shared/half", a="x", number=5)
    openbao.put("secretspec/missing/default/A", "of another profile")
    openbao.put("secretspec/missing/prod/B", other="another field")
    text = spec(
        "missing",
        f"A = {{ {X} }}",
        f"B = {{ {X} }}",
        f"C = {{ {X}, ref = {{ item = 'shared/half', field = 'b' }} }}",
        f"D = {{ {X}, ref = {{ item = 'shared/half', field = 'number' }} }}",
        f"E = {{ {X}, composed = '${{A}}' }}",
        f"F = {{ {X}, required = {{ exactly_one = 'login' }} }}",
        f"G = {{ {X}, required = {{ exactly_one = 'login' }} }}",
        f"H = {{ {X}, required = false }}",
    )

    said = refusal(lambda: secrets.resolve(text, "missing", "prod"))

    for part in (
        "A (field value of secret/secretspec/missing/prod/A)",
        "B (field value of secret/secretspec/missing/prod/B)",
        "C (field b of secret/shared/half)",
        "D (field number of secret/shared/half)",
        "E is composed of what is missing",
        "group login: exactly one of F, G must have a value, none has",
    ):
        assert part in said
    assert "prod/H" not in said


def test_without_openbao_only_what_needs_it_is_refused(settings: Settings) -> None:
    secrets = Secrets(settings)
    optional = spec("plain", f"A = {{ {X}, default = 'a' }}", f"B = {{ {X}, required = false }}")

    assert secrets.resolve(optional, "plain", "prod").variables == {"A": "a"}
    assert "set KENNEL_SECRETS" in refusal(
        lambda: secrets.resolve(optional + f"C = {{ {X} }}\n", "plain", "prod")
    )


# --- whose secrets ---


@pytest.mark.parametrize(
    ("name", "project"), [("web", "shop"), ("shop", "shop2"), ("sh/op", "shop"), ("../x", "x")]
)
def test_another_projects_name_is_refused(secrets: Secrets, name: str, project: str) -> None:
    text = spec(name, f"A = {{ {X}, default = 'x' }}")

    assert f'set name = "{project}"' in refusal(lambda: secrets.resolve(text, project, "prod"))


def test_the_name_is_compared_as_the_forge_does(openbao: OpenBaoServer, secrets: Secrets) -> None:
    openbao.put("secretspec/WebShop/prod/A", "x")

    assert secrets.resolve(spec("WebShop", f"A = {{ {X} }}"), "webshop", "prod").variables == {"A": "x"}


@pytest.mark.parametrize(
    "item",
    [
        "secretspec/other/prod/KEY",
        "secretspec/guest/prod/KEY",  # a preview must not have what is prod's
        "secretspec/guest",
        "secretspec/guestbook/preview/KEY",
        "sharedx/key",
        "shared",
        "other/shared/key",
        "../secret/shared/key",
        "shared/../secretspec/other/prod/KEY",
        "shared/../../secret/data/secretspec/other/prod/KEY",
        "shared/./../secretspec/other/prod/KEY",
        "shared/%2e%2e/secretspec/other/prod/KEY",
        "shared/%2E%2E%2Fsecretspec/other/prod/KEY",
        "shared/..%2fsecretspec/other/prod/KEY",
        "shared//../secretspec/other/prod/KEY",
        "shared\\\\..\\\\secretspec\\\\other",
        "shared/key?version=1",
        "shared/key#x",
        "shared/\\u0000",
        "shared/a\\nb",
        "shared/\\u2025/x\\u202e",
        "/",
        "//shared/key",
    ],
)
def test_a_reference_outside_what_is_allowed_is_refused_before_anything_is_asked(
    openbao: OpenBaoServer, secrets: Secrets, item: str
) -> None:
    openbao.put("secretspec/other/prod/KEY", "of somebody else")
    openbao.put("secretspec/guest/prod/KEY", "of production")
    line = f'A = {{ {X}, ref = {{ item = "{item}", field = "value" }} }}'
    before = openbao.logins()

    if item == "//shared/key":  # slashes at the ends mean nothing
        said = refusal(lambda: secrets.resolve(spec("guest", line, profile="preview"), "guest", "preview"))
        assert "missing in OpenBao: A (field value of secret/shared/key)" in said
        return
    said = refusal(lambda: secrets.resolve(spec("guest", line, profile="preview"), "guest", "preview"))
    assert "A: ref " in said
    assert openbao.logins() == before


def test_references_below_the_projects_own_path_and_other_allowed_prefixes_are_read(
    openbao: OpenBaoServer, configured: Settings
) -> None:
    openbao.put("secretspec/own/dev/sub/KEY", field="a")
    openbao.put("shared/team/x", field="b")
    openbao.put("shared/all", field="c")
    lines = [
        f"{name} = {{ {X}, ref = {{ item = '{item}', field = 'field' }} }}"
        for name, item in {"A": "secretspec/own/dev/sub/KEY", "B": "/shared/team/x"}.items()
    ]
    secrets = Secrets(configured.model_copy(update={"secrets_shared": " shared/team  infra/"}))

    assert secrets.resolve(spec("own", *lines, profile="dev"), "own", "dev").variables == {"A": "a", "B": "b"}
    other = f"C = {{ {X}, ref = {{ item = 'shared/all', field = 'field' }} }}"
    assert "below shared/team/, infra/, secretspec/own/dev/" in refusal(
        lambda: secrets.resolve(spec("own", other, profile="dev"), "own", "dev")
    )


# --- values that are no variables ---


def test_a_nul_is_refused_as_a_variable_and_kept_in_a_file(openbao: OpenBaoServer, secrets: Secrets) -> None:
    for name in ("A", "B"):
        openbao.put(f"secretspec/nul/prod/{name}", "a\0b")
    openbao.put("secretspec/nul/prod/D", "\0directory\0")
    text = spec("nul", f"A = {{ {X}, as_path = true }}")

    assert secrets.resolve(text, "nul", "prod").files == {"A": b"a\0b"}
    for line in (f"B = {{ {X} }}", f"D = {{ {X} }}"):
        said = refusal(lambda line=line: secrets.resolve(spec("nul", line), "nul", "prod"))  # type: ignore[misc]
        assert "holds a NUL" in said
        assert "as_path = true" in said


def test_the_longest_variable_starts_a_program_and_a_longer_one_is_refused(
    openbao: OpenBaoServer, secrets: Secrets
) -> None:
    longest = "x" * (128 * 1024 - len("A=") - 1)
    openbao.put("secretspec/long/prod/A", longest)
    openbao.put("secretspec/long/prod/B", longest + "x")

    found = secrets.resolve(spec("long", f"A = {{ {X} }}"), "long", "prod")

    assert subprocess.run(["/bin/true"], env=found.variables, check=True).returncode == 0
    assert "B is too long for a variable (128 KiB); set as_path" in refusal(
        lambda: secrets.resolve(spec("long", f"B = {{ {X} }}"), "long", "prod")
    )


def test_a_megabyte_goes_into_a_file(openbao: OpenBaoServer, secrets: Secrets) -> None:
    content = "".join(f"{number:08x}" for number in range(2**17))
    openbao.put("secretspec/mega/prod/A", content)

    found = secrets.resolve(spec("mega", f"A = {{ {X}, as_path = true }}"), "mega", "prod")

    assert found.files["A"].decode() == content


def test_values_that_cannot_be_read_are_all_named_without_their_values(
    openbao: OpenBaoServer, secrets: Secrets
) -> None:
    for name in "AB":
        openbao.put(f"secretspec/garbage/prod/{name}", "hunter2!")
    text = spec(
        "garbage",
        f"A = {{ {X}, encoding = 'base64' }}",
        f"B = {{ {X}, extract = {{ format = 'json', pointer = '' }} }}",
    )

    said = refusal(lambda: secrets.resolve(text, "garbage", "prod"))

    assert "A: the stored value is not base64; B: the stored value is not JSON" in said
    assert "hunter2" not in said


# --- rotation ---


def test_a_rotation_a_new_and_a_deleted_secret_are_noticed(openbao: OpenBaoServer, secrets: Secrets) -> None:
    openbao.put("secretspec/turn/prod/A", "1")
    openbao.put("secretspec/turn/prod/B", "1")
    text = spec("turn", f"A = {{ {X} }}", f"B = {{ {X} }}", f"C = {{ {X}, required = false }}")

    def versions() -> Any:
        return secrets.resolve(text, "turn", "prod").versions

    seen = versions()
    assert not secrets.changed(seen)
    for step in (
        lambda: openbao.put("secretspec/turn/prod/A", "2"),
        lambda: openbao.put("secretspec/turn/prod/C", "new"),
        lambda: openbao.call("DELETE", "secret/data/secretspec/turn/prod/C"),
    ):
        step()
        assert secrets.changed(seen)
        seen = versions()
        assert not secrets.changed(seen)
    openbao.call("DELETE", "secret/metadata/secretspec/turn/prod/B")
    assert secrets.changed_paths(seen) == {"secret/secretspec/turn/prod/B"}


def test_in_version_1_of_the_engine_rotations_are_noticed_too(
    openbao: OpenBaoServer, settings: Settings, database_file: Path
) -> None:
    secrets = Secrets(openbao.settings(settings, mount="kv1", kv="1"))
    openbao.call("POST", "kv1/secretspec/turn/prod/A", value="1")
    text = spec("turn", f"A = {{ {X} }}", f"B = {{ {X}, required = false }}")

    seen = secrets.resolve(text, "turn", "prod").versions

    assert set(seen) == {"kv1/secretspec/turn/prod/A", "kv1/secretspec/turn/prod/B"}
    assert not secrets.changed(seen)
    openbao.call("POST", "kv1/secretspec/turn/prod/A", value="2")
    assert secrets.changed(seen)


def test_another_mount_is_a_change_and_nothing_looked_at_is_none(
    secrets: Secrets, settings: Settings
) -> None:
    assert secrets.changed({"elsewhere/secretspec/a/prod/A": 1})
    assert not Secrets(settings).changed({})


def test_changes_are_looked_for_without_reading_a_secret(openbao: OpenBaoServer, settings: Settings) -> None:
    policy = 'path "secret/metadata/secretspec/*" { capabilities = ["read"] }'
    openbao.policy("metadata-alone", policy)
    openbao.put("secretspec/look/prod/A", "1")
    secrets = Secrets(openbao.settings(settings, policy="metadata-alone"))

    assert not secrets.changed({"secret/secretspec/look/prod/A": 1})
    with pytest.raises(Rejected, match="403"):
        secrets.resolve(spec("look", f"A = {{ {X} }}"), "look", "prod")


def test_what_kennel_stores_is_found_by_the_specification(openbao: OpenBaoServer, settings: Settings) -> None:
    secrets = Secrets(openbao.settings(settings, policy="write-secrets"))

    assert secrets.write("login", "dev", "OIDC_CLIENT_ID", "login-staging")
    assert not secrets.write("login", "dev", "OIDC_CLIENT_ID", "login-staging")
    text = spec("login", f"OIDC_CLIENT_ID = {{ {X} }}", profile="dev")
    assert secrets.resolve(text, "login", "dev").variables == {"OIDC_CLIENT_ID": "login-staging"}
    with pytest.raises(ConfigError):
        secrets.write("..", "dev", "KEY", "x")


# --- trouble ---


def test_a_sealed_server_is_for_later_and_takes_nothing_down(
    own_openbao: OpenBaoServer, settings: Settings
) -> None:
    own_openbao.initialise()
    own_openbao.put("secretspec/web/prod/A", "x")
    secrets = Secrets(own_openbao.settings(settings))
    text = spec("web", f"A = {{ {X} }}")
    seen = secrets.resolve(text, "web", "prod")
    own_openbao.seal()
    for ask in (lambda: secrets.resolve(text, "web", "prod"), lambda: secrets.changed(seen.versions)):
        with pytest.raises(Unavailable, match="unseal it"):
            ask()
    own_openbao.unseal()

    assert secrets.resolve(text, "web", "prod") == seen


# --- kennel secrets check ---


def test_check_says_where_each_secret_comes_from_and_what_is_missing(
    openbao: OpenBaoServer, configured: Settings, project: Project, tmp_path: Path
) -> None:
    openbao.put("secretspec/shop/prod/A", "hunter2")
    file = tmp_path / "secretspec.toml"
    file.write_text(
        spec(
            "shop",
            f"A = {{ {X} }}",
            f"B = {{ {X}, default = 'hunter3' }}",
            f"C = {{ {X} }}",
            f"D = {{ {X}, new = 1 }}",
        )
        + f"E = {{ {X}, composed = '${{A}}' }}\n"
    )
    cli = runner(configured)

    table = cli("secrets", "check", "acme/shop", "prod", "--file", str(file), status=1)
    shown = json.loads(
        cli("secrets", "check", "acme/shop", "prod", "--file", str(file), "--json", status=1).stdout
    )

    rows = [line.split() for line in table.stdout.splitlines()]
    assert ["C", "missing", "True", "secret/secretspec/shop/prod/C"] in rows
    assert {row["name"]: row["source"] for row in shown["secrets"]} == {
        "A": "set", "B": "default", "C": "missing", "D": "missing", "E": "composed",
    }  # fmt: skip
    assert "D (field value of secret/secretspec/shop/prod/D)" in table.stderr
    assert "profiles.prod.D.new is not known here" in table.stderr
    assert "hunter" not in table.stdout + table.stderr + json.dumps(shown)


def test_check_takes_the_file_that_is_deployed_last(
    openbao: OpenBaoServer, configured: Settings, project: Project, tmp_path: Path
) -> None:
    openbao.put("secretspec/shop/preview/A", "x")
    cli = runner(configured)
    build = Build.create(project=project, ref="pr-1", commit="a" * 40, status="done")
    for number, line in enumerate([f"A = {{ {X} }}", f"Z = {{ {X} }}"]):
        config = tmp_path / f"config{number}"
        config.mkdir()
        (config / "secretspec.toml").write_text(spec("shop", line, profile="preview"))
        with db.write():
            Deployment.create(
                project=project,
                ref=f"pr-{number}",
                name="api",
                kind="service",
                environment="preview",
                build=build,
                commit="a" * 40,
                store_path="/nix/store/x",
                config_path=str(config),
                host=f"{number}.localhost",
                updated_at=time.time() + number,
            )

    assert "secretspec/shop/preview/Z" in cli("secrets", "check", "acme/shop", "preview", status=1).stderr
    assert "set" in cli("secrets", "check", "acme/shop", "preview", "--ref", "pr-0").stdout
    assert "no deployment in prod" in cli("secrets", "check", "acme/shop", "prod", status=3).stderr
    assert "no such project" in cli("secrets", "check", "acme/none", "prod", status=3).stderr
    cli("secrets", "check", "acme/shop", "production", status=2)


def test_check_of_a_file_that_is_wrong_says_so(
    configured: Settings, project: Project, tmp_path: Path
) -> None:
    file = tmp_path / "secretspec.toml"
    file.write_bytes(b"\xff[project")

    assert (
        "is not TOML"
        in runner(configured)("secrets", "check", "acme/shop", "dev", "--file", str(file), status=5).stderr
    )
    assert projects.find("acme/shop") == project
