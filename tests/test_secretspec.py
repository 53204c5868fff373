"""secretspec.toml, as secretspec itself reads it: both resolve the same files from the same server."""

import json
from collections.abc import Iterator, Sequence

import pytest

from kennel_core import secretspec
from kennel_core.errors import BuildFailed
from kennel_core.secrets import Secrets
from kennel_core.secretspec import DIRECTORY, Resolution, Secret, Source
from kennel_core.settings import Settings
from tests.secretspec_oracle import Answer, Oracle, make, oracle
from tests.servers.openbao import OpenBaoServer

PROJECT = '[project]\nname = "shop"\nrevision = "1.0"\n'
GENERATED = 400
OF_A_VALUE = {"decode_failed", "secret_not_text", "composition_failed"}


@pytest.fixture(scope="module")
def asked(openbao: OpenBaoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    with oracle(openbao, tmp_path_factory.mktemp("secretspec")) as running:
        yield running


def lines(*text: str) -> str:
    return "\n".join(text) + "\n"


def resolve(text: str, stored: dict[str, str] | None = None, profile: str = "prod") -> Resolution:
    def read(secrets: Sequence[Secret]) -> dict[str, str]:
        return {secret.name: stored[secret.name] for secret in secrets if stored and secret.name in stored}

    return secretspec.resolve(secretspec.parse(PROJECT + text).for_profile(profile), read)


def refusal(text: str, profile: str = "prod") -> str:
    with pytest.raises(BuildFailed) as caught:
        secretspec.parse(text).for_profile(profile)
    assert caught.value.phase == "secrets"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def kennels(secrets: Secrets, text: str, project: str, profile: str) -> Resolution | str:
    """Resolve as `Secrets` does; the sentence when the file is refused."""
    try:
        spec, declared = secrets._read_spec(text, project, profile)
    except BuildFailed as exc:
        return str(exc)
    return secrets._look(spec, declared, profile)[0]


def differs(theirs: Answer, ours: Resolution | str) -> bool:
    """Tell whether Kennel and secretspec disagree."""
    if isinstance(ours, str):
        return theirs.kind == "ok" or theirs.kind in OF_A_VALUE | {"missing_required", "validation_failed"}
    if any("names other files" in sentence for sentence in ours.unusable):
        return False  # secretspec knows the paths of its files, Kennel cannot yet
    if theirs.kind == "ok":
        absent = [name for name, source in ours.sources.items() if source is Source.MISSING]
        same = (ours.values, ours.files, absent) == (theirs.values, theirs.files, sorted(theirs.absent))
        return not same or bool(ours.missing or ours.groups or ours.unusable)
    if theirs.kind == "missing_required":
        return sorted(ours.missing) != sorted(theirs.missing) or bool(ours.groups)
    if theirs.kind == "validation_failed":
        return not ours.groups
    return not (theirs.kind in OF_A_VALUE and ours.unusable)


# --- against secretspec ---


def test_hundreds_of_generated_files_are_resolved_as_by_secretspec(
    asked: Oracle, openbao: OpenBaoServer, settings: Settings
) -> None:
    secrets = Secrets(openbao.settings(settings))
    openbao.put("shared/oracle", A="of another entry")
    kinds = set()
    for seed in range(GENERATED):
        project = f"generated{seed}"
        made = make(seed, project)
        for path, fields in made.stored.items():
            openbao.put(path, **fields)
        theirs = asked.ask(made.text, made.profile, directory=DIRECTORY)
        ours = kennels(secrets, made.text, project, made.profile)
        assert not differs(theirs, ours), f"{seed}: {made.text}{made.stored}\n{theirs}\n{ours}"
        kinds.add(theirs.kind)
    assert kinds >= {"ok", "missing_required", "validation_failed", "invalid_spec", "toml"} | OF_A_VALUE - {
        "composition_failed"
    }


@pytest.mark.parametrize(
    "text",
    [
        'A = {\n  description = "x", # of many lines\n  default = "1",\n}',
        'A = { description = "}#,\\n{", default = """\n{,}\n""", }',
        lines(
            "A = { description = 'x', required = { at_least_one = [\n'g', ], },\n }",
            "B.description = 'x'",
            "B.required.at_least_one = 'g'",
            "B.default = 'b'",
        ),
        "A.description = 'crlf'\r\nA.default = '1'\r\n",
        lines("[profiles.prod.A]", "description = 'x'", "default = ''"),
        lines("A.required = true", "[profiles.default]", "A = { description = 'x', default = '1' }"),
        lines(
            "B = { description = 'x', default = '1' }",
            "[profiles.prod.defaults]",
            "inherit = false",
            "[profiles.default]",
            "A = { description = 'x' }",
        ),
        lines("[profiles.default]", "A = { description = 'x', default = '1' }"),
        "A = { description = 'x', generate = false, prompt = false, type = 'uuid', default = 'x' }",
        "A = { description = 'x', providers = ['nobody', 'env'], default = 'x' }",
        lines(
            "A.description = 'x'",
            "A.default = 'x'",
            "[providers]",
            "x = 'env://'",
            "[scopes.s]",
            "secrets = ['A']",
        ),
        lines("defaults = { required = false }", "A = { description = 'x' }", "B = { description = 'x' }"),
        "A = 'a text'",
        "",
        "1A = { description = 'x', default = 'x' }",
    ],
)
def test_what_people_write_is_read_as_by_secretspec(
    asked: Oracle, openbao: OpenBaoServer, settings: Settings, text: str
) -> None:
    text = PROJECT + "[profiles.prod]\n" + text
    theirs = asked.ask(text, "prod")
    ours = kennels(Secrets(openbao.settings(settings)), text, "shop", "prod")

    assert not differs(theirs, ours), f"{theirs}\n{ours}"


def test_the_path_of_a_file_goes_into_what_is_composed_of_it(
    asked: Oracle, openbao: OpenBaoServer, settings: Settings
) -> None:
    text = PROJECT.replace("shop", "paths") + (
        "[profiles.prod]\nKEY = { description = 'x', as_path = true }\n"
        "URL = { description = 'x', composed = 'tls:${KEY}?a' }\n"
        "TWICE = { description = 'x', composed = '${URL} ${URL}' }\n"
    )
    openbao.put("secretspec/paths/prod/KEY", "\x00binary\n")

    theirs = asked.ask(text, "prod", directory="/run/credentials/unit")
    ours = Secrets(openbao.settings(settings)).resolve(text, "paths", "prod")

    assert ours.files == theirs.files == {"KEY": b"\x00binary\n"}
    assert ours.environment("/run/credentials/unit") == theirs.values | {"KEY": "/run/credentials/unit/KEY"}


# --- what is refused ---


def test_a_circle_of_composed_secrets_is_named() -> None:
    text = lines(
        "[profiles.prod]",
        "A = { description = 'x', composed = '${B}' }",
        "B = { description = 'x', composed = '${C}' }",
        "C = { description = 'x', composed = 'x${A}' }",
    )

    assert "prod, `composed` goes round in a circle: A → B → C → A" in refusal(PROJECT + text)


def test_a_long_chain_of_composed_secrets_is_no_circle() -> None:
    chain = "".join(f"S{n} = {{ description = 'x', composed = '<${{S{n + 1}}}>' }}\n" for n in range(2000))
    found = resolve(f"[profiles.prod]\n{chain}S2000 = {{ description = 'x' }}\n", {"S2000": "end"})

    assert found.values["S0"] == "<" * 2000 + "end" + ">" * 2000


def test_composing_cannot_fill_the_memory() -> None:
    doubling = "".join(
        f"S{n} = {{ description = 'x', composed = '${{S{n + 1}}}${{S{n + 1}}}' }}\n" for n in range(60)
    )
    found = resolve(f"[profiles.prod]\n{doubling}S60 = {{ description = 'x' }}\n", {"S60": "x"})

    assert "would be longer than 16 MiB" in found.unusable[0]
    assert found.sources["S0"] is Source.UNUSABLE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "project: Field required"),
        ("x = [", "is not TOML"),
        ("a = 1\x00", "is not TOML"),
        ("[" * 5000, "is"),
        ("a." * 5000 + "b = 1", "project"),
        ("#" * 2**20, "is larger than 256 KiB"),
        (PROJECT.replace("shop", ""), "project.name"),
        (PROJECT.replace("1.0", "2.0") + "[profiles.prod]\n", "has revision 2.0; this Kennel reads 1.0"),
        (PROJECT + "extends = ['../x']\n[profiles.prod]\n", "write what they declare into it"),
        (PROJECT, "profiles: Field required"),
        (PROJECT + "[profiles.dev]\nA.description = 'x'", "profile prod (it has dev); add [profiles.prod]"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(text: str, said: str) -> None:
    assert said in refusal(text)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("A = { description = 'x', default = 1 }", "profiles.prod.A.default: Input should be a valid string"),
        ("A = { description = 'x', ref = 'db/x' }", "must be a table such as { item"),
        ("A = { description = 'x', ref = { item = 'a' } }", "`ref` needs a field"),
        ("A = { description = 'x', ref = { item = 'a', field = 'b', version = '1' } }", "`ref` has version"),
        ("A = { description = 'x', composed = '${B}' }", "refers to B, which the profile does not declare"),
        ("A = { description = 'x', required = { at_least_one = 'g' } }", "group g: must have two secrets"),
        ("A = {}", "profile prod, A: needs a description"),
        ("'A B' = { description = 'x' }", "is no name of an environment variable"),
        ("'Ä' = { description = 'x' }", "is no name of an environment variable"),
        ('"A\\u001b[2J" = 1', "A\\x1b[2J"),
    ],
)  # fmt: skip
def test_a_secret_that_contradicts_itself_is_named(declared: str, said: str) -> None:
    assert said in refusal(f"{PROJECT}[profiles.prod]\n{declared}\n")


def test_fields_that_secretspec_ignores_are_ignored_with_a_warning() -> None:
    spec = secretspec.parse(
        'more = 1\n[project]\nname = "shop"\nrevision = "1.0"\nowner = "me"\n'
        "[profiles.prod.defaults]\nx = 1\n[profiles.prod]\nA = { description = 'x', rotate = true }\n"
    )

    assert sorted(
        warning.removeprefix("secretspec.toml: ").partition(" ")[0] for warning in spec.warnings
    ) == [
        "more",
        "profiles.prod.A.rotate",
        "profiles.prod.defaults.x",
        "project.owner",
    ]


def test_what_secretspec_would_generate_or_ask_for_is_missing_here() -> None:
    found = resolve(
        "[profiles.prod]\nA = { description = 'x', type = 'password', generate = true, required = false }\n"
        "B = { description = 'x', prompt = true }\n"
    )

    assert found.missing == ("A", "B")


def test_a_stored_value_never_gets_into_a_sentence() -> None:
    stored = dict.fromkeys("ABCD", "hunter2-hunter2")
    found = resolve(
        "[profiles.prod]\nA = { description = 'x', encoding = 'base64' }\n"
        "B = { description = 'x', encoding = 'hex' }\n"
        "C = { description = 'x', extract = { format = 'json', pointer = '/a' } }\n"
        "D = { description = 'x', extract = { format = 'ini', pointer = '/a' } }\n",
        stored,
    )

    assert [sentence[0] for sentence in found.unusable] == list("ABCD")
    assert "hunter2" not in json.dumps(found.unusable)
