import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from kennel_core import settings as module
from kennel_core.errors import ConfigError
from kennel_core.settings import PREFIX, Settings, load

EXAMPLE = Path(__file__).parents[1] / "deploy/kennel.env.example"


def documented() -> dict[str, tuple[str, str]]:
    """Read the example file: variable to (default, meaning)."""
    found = {}
    lines = EXAMPLE.read_text().splitlines()
    for above, line in pairwise(lines):
        if line.startswith(f"#{PREFIX}"):
            name, _, value = line.removeprefix("#").partition("=")
            assert name not in found, f"{name} is there twice"
            found[name] = (value, above.removeprefix("# "))
    return found


def test_the_example_file_has_every_setting_with_its_default_and_meaning() -> None:
    expected = {}
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else str(field.default)
        default = default.lower() if isinstance(field.default, bool) else default
        expected[f"{PREFIX}{name.upper()}"] = (default, field.description)

    assert documented() == expected


def test_the_values_of_the_example_file_are_the_defaults() -> None:
    assert load({name: value for name, (value, _meaning) in documented().items()}) == Settings()


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            {
                "KENNEL_MAX_BILDS": "2",
                "KENNEL_MAX_BUILDS": "many",
                "KENNEL_BIND": "3000",
                "KENNEL_PORTS": "9-1",
                "KENNEL_BASE_DOMAIN": "Apps_Example",
                "KENNEL_CADDY_ADMIN": "localhost:2019",
                "KENNEL_BUILD_TIMEOUT": "0",
                "KENNEL_LOG_FORMAT": "xml",
                "KENNEL_HTTPS_PORT": "70000",
            }
        )

    lines = str(caught.value).splitlines()
    assert lines[0] == "KENNEL_MAX_BILDS: there is no such setting; did you mean KENNEL_MAX_BUILDS?"
    assert {line.split(":")[0] for line in lines[1:]} == {
        "KENNEL_MAX_BUILDS",
        "KENNEL_BIND",
        "KENNEL_PORTS",
        "KENNEL_BASE_DOMAIN",
        "KENNEL_CADDY_ADMIN",
        "KENNEL_BUILD_TIMEOUT",
        "KENNEL_LOG_FORMAT",
        "KENNEL_HTTPS_PORT",
    }


def test_a_neighbour_that_is_half_described_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"KENNEL_GARAGE_ADMIN": "http://127.0.0.1:3903", "KENNEL_VALKEY": "acl"})

    assert str(caught.value).splitlines() == [
        "KENNEL_GARAGE_TOKEN_FILE: must be set, because KENNEL_GARAGE_ADMIN is",
        "KENNEL_GARAGE_S3: must be set, because KENNEL_GARAGE_ADMIN is",
        "KENNEL_VALKEY_URL: must name the server of mode acl",
    ]


def test_an_empty_variable_is_a_missing_one() -> None:
    assert load({"KENNEL_MAX_BUILDS": "", "KENNEL_JOURNAL_DIR": ""}) == Settings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().max_builds = 3


@pytest.mark.parametrize(
    ("port", "url"), [(443, "https://shop.example.org"), (8443, "https://shop.example.org:8443")]
)
def test_urls_name_the_port_that_browsers_need(port: int, url: str) -> None:
    assert Settings(https_port=port).url("shop.example.org") == url


@pytest.mark.parametrize(
    "entry", ["kennel_web.wsgi", "kennel_web.follow_wsgi", "kennel_tasks.app", "celeryconfig"]
)
def test_a_process_with_wrong_settings_ends_with_status_2_and_says_why(entry: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {entry}"],
        env={"KENNEL_MAX_BUILDS": "0", "KENNEL_PORT": "1"},
        cwd=Path(module.__file__).parents[1],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 2
    assert "KENNEL_MAX_BUILDS: " in done.stderr
    assert "KENNEL_PORT: there is no such setting" in done.stderr
    assert "Traceback" not in done.stderr
