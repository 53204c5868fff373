"""The file that lists the custom domains."""

import os
from pathlib import Path

import pytest

from kennel_core import custom_domains
from kennel_core.errors import Unavailable


def test_domains_are_sorted_and_each_there_once() -> None:
    assert custom_domains.content(["b.org", "a.org", "b.org"]) == "a.org\nb.org\n"
    assert custom_domains.content([]) == ""


def test_the_file_is_written_when_it_differs_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "domains"

    assert custom_domains.write(path, ["b.org", "a.org"])
    first = path.stat()
    assert not custom_domains.write(path, ["a.org", "b.org"])
    assert path.stat() == first
    assert custom_domains.write(path, [])
    assert path.read_text() == ""
    assert [each.name for each in tmp_path.iterdir()] == ["domains"]


def test_everybody_may_read_the_file_whatever_the_mask_and_whoever_changed_it(tmp_path: Path) -> None:
    path = tmp_path / "domains"
    before = os.umask(0o077)
    try:
        custom_domains.write(path, ["a.org"])
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644

    path.chmod(0o600)

    assert custom_domains.write(path, ["a.org"])
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_reader_keeps_the_whole_old_file(tmp_path: Path) -> None:
    path = tmp_path / "domains"
    custom_domains.write(path, ["a.org"])

    with path.open() as reader:
        custom_domains.write(path, ["b.org"])
        assert reader.read() == "a.org\n"


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=f"{tmp_path}/none/domains: No such file"):
        custom_domains.write(tmp_path / "none" / "domains", ["a.org"])


def test_what_stands_in_the_way_is_left_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "domains"
    (path / "kept").mkdir(parents=True)

    with pytest.raises(Unavailable, match="directory"):
        custom_domains.write(path, ["a.org"])
    assert [each.name for each in tmp_path.iterdir()] == ["domains"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "domains"
    custom_domains.write(path, ["a.org"])
    monkeypatch.setattr(os, "fsync", _full)

    with pytest.raises(Unavailable, match="No space left"):
        custom_domains.write(path, ["b.org"])
    assert path.read_text() == "a.org\n"
    assert [each.name for each in tmp_path.iterdir()] == ["domains"]


def _full(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")
