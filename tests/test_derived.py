import re
from pathlib import Path

import pytest

from kennel_core import derived
from kennel_core.errors import ConfigError


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret.key"
    path.write_text("k" * 64)
    return path


def test_a_password_is_the_same_each_time_and_fits_everywhere(key_file: Path) -> None:
    password = derived.password(key_file, "postgres", "kennel_1")

    assert password == derived.password(key_file, "postgres", "kennel_1")
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", password)


def test_whatever_differs_makes_another_password(key_file: Path, tmp_path: Path) -> None:
    other_key = tmp_path / "other.key"
    other_key.write_text("l" * 64)

    passwords = {
        derived.password(key_file, "postgres", "ab"),
        derived.password(key_file, "postgres", "a", "b"),
        derived.password(key_file, "postgresab"),
        derived.password(key_file, "valkey", "ab"),
        derived.password(other_key, "postgres", "ab"),
    }

    assert len(passwords) == 5


def test_a_key_that_is_missing_or_short_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kennel migrate"):
        derived.password(tmp_path / "absent", "x")
    (tmp_path / "short").write_text("short")
    with pytest.raises(ConfigError, match="restore it from the backup"):
        derived.password(tmp_path / "short", "x")
