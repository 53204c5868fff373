"""kennel.json: every generation is read, nonsense is refused with a sentence that names the field."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kennel_core.errors import BuildFailed
from kennel_core.manifest import HealthCheck, Manifest, parse
from kennel_core.outputs import Outputs, ServiceOutput, SiteOutput

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def read(**fields):
    return parse(json.dumps(fields))


def refusal(**fields) -> str:
    with pytest.raises(BuildFailed) as caught:
        read(**fields)
    assert caught.value.phase == "discover"
    assert str(caught.value).startswith("discover: kennel.json")
    return str(caught.value)


# --- generations


def test_version_one_is_read():
    manifest = read(
        version=1,
        services={"api": {"custom_domain": "API.example.org", "health_check": None, "oidc": None}},
        static_sites={"docs": {"package_attr": "docs-site", "spa": True, "custom_domain": None}},
        preview_deployments=False,
        resources=["postgres", "valkey"],
    )

    assert manifest.services["api"].custom_domain == "api.example.org"
    assert manifest.services["api"].health == HealthCheck(path="/api/health", timeout=None)
    assert manifest.static_sites["docs"].package_attr == "docs-site"
    assert manifest.static_sites["docs"].spa
    assert not manifest.preview_deployments
    assert manifest.resources == ["postgres", "valkey"]
    assert manifest.warnings == ()
    assert manifest.packages() == ["api", "docs-site"]


def test_a_file_without_version_and_resources_is_read():
    manifest = read(
        services={"api": {"custom_domain": None, "oidc": {"redirect_paths": ["/oauth2/callback"]}}}
    )

    assert manifest.version is None
    assert manifest.resources is None
    assert manifest.preview_deployments
    assert manifest.warnings == ()


def test_a_site_without_a_package_has_the_package_of_its_name():
    assert read(static_sites={"web": {}}).static_sites["web"].package_attr == "web"


def test_fields_that_nobody_knows_are_warnings():
    manifest = read(
        services={"api": {"colour": "blue"}}, new={}, resources=["teapot"], static_sites={"x": {"y": 1}}
    )

    assert [warning.removeprefix("kennel.json: ") for warning in manifest.warnings] == [
        "new is not known here and is ignored",
        "services.api.colour is not known here and is ignored",
        "static_sites.x.y is not known here and is ignored",
        "resources: there is no teapot here; it is ignored",
    ]


@pytest.mark.parametrize(
    ("given_check", "health"),
    [
        ("none", None),
        (None, HealthCheck()),
        ({}, HealthCheck()),
        ({"path": "/up", "timeout": 10}, HealthCheck(path="/up", timeout=10)),
        ({"timeout": 2.5}, HealthCheck(timeout=2.5)),
        ({"path": "/up", "timeout": None}, HealthCheck(path="/up")),
    ],
)
def test_a_health_check_can_be_declared(given_check, health):
    assert read(services={"api": {"health_check": given_check}}).services["api"].health == health


# --- refusals


@pytest.mark.parametrize("version", [0, 2, "1", 1.5, True, [], {}])
def test_another_version_is_refused_with_advice(version):
    assert "devenv update" in refusal(version=version, services={"api": {}})


@pytest.mark.parametrize(
    "text", ["", "{", "nonsense", "[]", "null", '"x"', "[" * 100_000, "\x00", '{"a": 1' + "0" * 5000 + "}"]
)
def test_what_is_not_a_json_object_is_refused(text):
    with pytest.raises(BuildFailed, match=r"kennel\.json"):
        parse(text)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "no services or static sites"),
        ({"services": {}, "static_sites": {}}, "no services or static sites"),
        ({"services": []}, "services: "),
        ({"services": {"api": 3}}, "services.api: "),
        ({"services": {"api": {"custom_domain": 3}}}, "services.api.custom_domain: "),
        ({"services": {"api": {"oidc": {"redirect_paths": []}}}}, "services.api.oidc.redirect_paths: "),
        (
            {"services": {"api": {"oidc": {"redirect_paths": ["/a*"]}}}},
            "services.api.oidc.redirect_paths.0: ",
        ),
        ({"services": {"api": {"health_check": "off"}}}, "services.api.health_check: "),
        ({"services": {"api": {"health_check": {"path": "health"}}}}, "services.api.health_check.path: "),
        ({"services": {"api": {"health_check": {"path": "/a b"}}}}, "services.api.health_check.path: "),
        (
            {"services": {"api": {"health_check": {"path": "/a\r\nHost: x"}}}},
            "services.api.health_check.path: ",
        ),
        ({"services": {"api": {"health_check": {"timeout": 0}}}}, "services.api.health_check.timeout: "),
        ({"services": {"api": {"health_check": {"timeout": 1e9}}}}, "services.api.health_check.timeout: "),
        (
            {"services": {"api": {"health_check": {"timeout": float("nan")}}}},
            "services.api.health_check.timeout: ",
        ),
        ({"services": {"api": {}}, "static_sites": {"api": {}}}, "api as a service and as a static site"),
        ({"static_sites": {"web": {"spa": "yes"}}}, "static_sites.web.spa: "),
        ({"static_sites": {"web": {"package_attr": "../x"}}}, "static_sites.web.package_attr: "),
        ({"static_sites": {"web": {"package_attr": "a.b"}}}, "static_sites.web.package_attr: "),
        ({"services": {"api": {}}, "preview_deployments": "no"}, "preview_deployments: "),
        ({"services": {"api": {}}, "resources": "postgres"}, "resources: "),
        ({"services": {"api": {}}, "resources": ["a\nb"]}, "resources.0: "),
    ],
)
def test_a_wrong_field_is_named(fields, named):
    assert named in refusal(**fields)


HOSTILE = [
    "",
    "-x",
    "--option",
    "_x",
    "a b",
    "a/b",
    "../x",
    "a.b",
    "a$(touch x)",
    "a`id`",
    "a;b",
    'a"b',
    "a'b",
    "${a}",
    "a\\b",
    "a\n",
    "\x1b[2J",
    "\uff41pi",  # full width
    "\u0430pi",  # Cyrillic
    "a" * 64,
    "\ud800",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_without_repeating_control_characters(name):
    for fields in ({"services": {name: {}}}, {"static_sites": {name: {}}}):
        message = refusal(**fields)
        assert message.isprintable()
        assert len(message) < 300


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "*.example.org",
        "example.org:80",
        "https://example.org",
        "example.org/x",
        "1.2.3.4",
        "[::1]",
        "a..b",
        "-a.example.org",
        "a-.example.org",
        "example.org.",
        "ex\u202eample.org",
        "a_b.example.org",
        "a b.example.org",
        "x" * 64 + ".example.org",
        ".".join(["abcdefgh"] * 30),
        "example.1",
        "a.example.org\n",
    ],
)
def test_a_custom_domain_is_a_plain_host_name(host):
    assert "custom_domain" in refusal(services={"api": {"custom_domain": host}})


def test_a_custom_domain_of_any_script_is_spelled_as_dns_does():
    manifest = read(services={"api": {"custom_domain": "BÜCHER.example.org"}})

    assert manifest.services["api"].custom_domain == "xn--bcher-kva.example.org"


@pytest.mark.parametrize("host", ["shop.local", "shop.invalid", "x.onion", "1.2.in-addr.arpa", "a.internal"])
def test_a_name_that_no_public_host_can_have_is_refused(host):
    assert "RFC 6761" in refusal(services={"api": {"custom_domain": host}})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
entries = st.dictionaries(
    st.sampled_from(["custom_domain", "health_check", "oidc", "spa", "package_attr", "path", "timeout"]),
    json_values,
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "version": st.sampled_from([1, None]) | json_values,
        "services": st.dictionaries(st.text(max_size=10), entries | json_values, max_size=3) | json_values,
        "static_sites": st.dictionaries(st.sampled_from(["a", "web"]), entries, max_size=2) | json_values,
        "preview_deployments": json_values,
        "resources": json_values,
        "other": json_values,
    },
)


def outcome(text: str) -> Manifest | BuildFailed:
    try:
        return parse(text)
    except BuildFailed as exc:
        return exc


@given(documents)
def test_any_document_is_read_or_refused_with_a_printable_sentence(document):
    found = outcome(json.dumps(document))

    if isinstance(found, BuildFailed):
        assert str(found).isprintable()
        assert len(str(found)) < 500
    else:
        assert found.services or found.static_sites
        assert all(NAME.fullmatch(name) for name in (*found.services, *found.static_sites))
        assert all(warning.isprintable() for warning in found.warnings)
        assert all(re.fullmatch(r"[A-Za-z0-9_+-]+", package) for package in found.packages())


@given(st.text())
def test_any_text_is_read_or_refused(text):
    found = outcome(text)

    assert isinstance(found, Manifest) or str(found).isprintable()


# --- outputs


def test_outputs_come_back_from_json_as_they_were():
    outputs = Outputs(
        config_path="/nix/store/x-config",
        resources=None,
        services=[
            ServiceOutput(name="api", store_path="/nix/store/y-api", command=["/nix/store/y-api/bin/api"])
        ],
        sites=[SiteOutput(name="web", store_path="/nix/store/z-web", spa=True, custom_domain="x.org")],
    )

    assert Outputs.model_validate(json.loads(json.dumps(outputs.model_dump(mode="json")))) == outputs
