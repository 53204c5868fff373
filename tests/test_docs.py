"""What the documents say is held to the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kennel_core.models import BuildStatus
from kennel_core.settings import PREFIX, Settings
from kennel_web import create_app
from tests.recording_doorbell import RecordingDoorbell

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")])


def each_page(test: object) -> object:
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))(test)


@each_page
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()

    for name in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / name).exists(), name
    for name in set(re.findall(r"deploy/[\w./-]+[\w]", text)) - {"deploy/systemd/kennel"}:
        assert (ROOT / name).exists(), name


@each_page
def test_the_commands_that_a_page_names_exist(page: Path) -> None:
    found = re.findall(r"(?:^|`)(kennel [a-z-]+(?: [a-z-]+)?)", page.read_text(), re.MULTILINE)
    for command in set(found):
        words = [word for word in command.split()[1:] if word != "show"]
        done = subprocess.run(
            [str(Path(sys.executable).with_name("kennel")), *words, "--help"],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, command
    targets = set(re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text())[1].split())
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets


@each_page
def test_the_settings_that_a_page_names_exist(page: Path) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    given_to_services = {
        "KENNEL_BRANCH",
        "KENNEL_ENVIRONMENT",
        "KENNEL_PROJECT",
        "KENNEL_SERVICE",
        "KENNEL_URL_API",
    }

    named = set(re.findall(rf"{PREFIX}[A-Z0-9_]*[A-Z0-9]", page.read_text()))

    assert {name for name in named - given_to_services if not name.startswith("KENNEL_URL_")} <= known


def test_the_paths_that_the_readme_names_are_answered(settings: Settings) -> None:
    rules = create_app(settings, RecordingDoorbell()).url_map.bind("localhost")

    for path in set(re.findall(r"`(/[a-z]+(?:/\d+/[a-z]+)?)", (ROOT / "README.md").read_text())):
        assert rules.match(path), path


def test_the_states_of_a_build_are_named_as_they_are() -> None:
    page = (ROOT / "docs/operations.md").read_text()

    for status in ("queued", "building", "failed"):
        assert status in page
        assert status in set(BuildStatus)


def test_every_promise_has_a_test_that_exists() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    rows = [line for line in (ROOT / "docs/invariants.md").read_text().splitlines() if line.startswith("| ")][
        2:
    ]

    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        for name in named:
            assert f"def {name}(" in tests, name
