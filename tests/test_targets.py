"""The files that say what is live, on a real file system."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kennel_core.adapters.targets import Targets
from kennel_core.errors import Unavailable


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run" / "targets"


@pytest.fixture
def tight_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_written_is_read_back_until_it_is_removed(directory: Path) -> None:
    targets = Targets(directory)
    assert targets.read() == {}

    targets.write("1.port", "18001")
    targets.write("2.files", "/nix/store/aaa-docs")
    targets.write("1.port", "18002")
    assert targets.read() == {"1.port": "18002", "2.files": "/nix/store/aaa-docs"}
    assert (directory / "1.port").read_bytes() == b"18002"

    targets.remove("1.port")
    targets.remove("1.port")
    assert targets.read() == {"2.files": "/nix/store/aaa-docs"}
    assert [path.name for path in directory.iterdir()] == ["2.files"]


def test_a_file_that_was_open_still_says_what_it_said(directory: Path) -> None:
    Targets(directory).write("1.port", "18001")
    with (directory / "1.port").open() as before:
        Targets(directory).write("1.port", "18002")

        assert before.read() == "18001"


@pytest.mark.usefixtures("tight_umask")
def test_everybody_may_read_whatever_the_umask_is(directory: Path) -> None:
    directory.parent.mkdir()
    Targets(directory).write("1.port", "18001")

    assert (mode(directory), mode(directory / "1.port")) == (0o755, 0o644)


def test_what_caddy_may_not_read_says_nothing_and_is_opened_by_the_next_write(directory: Path) -> None:
    targets = Targets(directory)
    targets.write("1.port", "18001")
    for path, closed in ((directory / "1.port", 0o600), (directory, 0o700)):
        path.chmod(closed)
        assert targets.read() == {"1.port": ""}

        targets.write("1.port", "18001")
        assert targets.read() == {"1.port": "18001"}


def test_what_kennel_did_not_write_is_not_seen_and_what_it_left_half_written_is(directory: Path) -> None:
    directory.mkdir(parents=True)
    for name in ("README", "1.port.new", ".1.port"):
        (directory / name).touch(mode=0o644)

    assert list(Targets(directory).read()) == ["1.port.new"]


def test_a_link_in_the_place_of_the_directory_is_not_followed(directory: Path, tmp_path: Path) -> None:
    directory.parent.mkdir()
    directory.symlink_to(tmp_path)
    (tmp_path / "1.port").touch()

    for call in (
        Targets(directory).read,
        lambda: Targets(directory).write("1.port", "18001"),
        lambda: Targets(directory).remove("1.port"),
    ):
        with pytest.raises(Unavailable, match=r"targets: \w+: .*/run/targets: Not a directory"):
            call()

    assert (tmp_path / "1.port").read_text() == ""


def test_a_directory_that_cannot_be_made_is_unavailable(directory: Path) -> None:
    directory.parent.touch()

    with pytest.raises(Unavailable, match="targets: write:"):
        Targets(directory).write("1.port", "18001")
