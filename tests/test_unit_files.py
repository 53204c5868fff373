"""Files that units read their secrets from, as a real systemd reads them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kennel_core import env_file
from kennel_core.adapters.systemd import Systemd
from kennel_core.adapters.unit_files import UnitFiles
from kennel_core.adapters.unit_spec import UnitSpec
from kennel_core.errors import Unavailable
from tests.servers.systemd import PrivateSystemd
from tests.waiting import until

UNIT = "kennel-tells-00000001.service"
TELL = """#!/usr/bin/python3
import json, os, sys
place = os.environ["CREDENTIALS_DIRECTORY"]
files = {name: open(f"{place}/{name}", "rb").read().hex() for name in os.listdir(place)}
print(json.dumps([dict(os.environ), files]), file=open(sys.argv[1], "w"))
"""
NASTY = [
    "",
    " ",
    " spaces around ",
    "two\nlines",
    "ends with a line\n",
    "\n\nbegins with lines",
    "with \"double\" and 'single' quotes",
    "back\\slash",
    "ends with a backslash\\",
    "backslash and line\\\nline",
    "$HOME ${HOME} $(id) `id`",
    "# no comment",
    "; no comment",
    "a=b=c",
    "tab\tand\rreturn",
    "bell\x07 escape\x1b[31m",
    "ünïcödé 🐕 \u202e",
    "%h %i %%",
    "export X=1",
    "'",
    '"',
    "\\",
    "\\n",
    "x" * 120_000,
]


def test_systemd_reads_back_every_value(systemd: PrivateSystemd, tmp_path: Path) -> None:
    files = UnitFiles(systemd.dir / "run/kennel-inputs")
    program, answer = systemd.dir / "tell", systemd.dir / "run/told"
    program.write_text(TELL)
    program.chmod(0o755)
    values = {f"NASTY_{number}": value for number, value in enumerate(NASTY)}
    credentials = {"KEY": b"-----BEGIN\n\x00\xff", "BIG": b"x" * 900_000}

    files.write(UNIT, env_file.render(values), credentials)
    environment_file, places = files.of(UNIT)
    spec = UnitSpec(
        name=UNIT,
        argv=(str(program), str(answer)),
        environment={},
        working_directory="/",
        description="tells",
        user="root",
        log_fields={},
        memory_max=2**30,
        tasks_max=10,
        sandbox=False,
        environment_file=environment_file,
        credentials=places,
    )
    with Systemd(systemd.bus) as client:
        client.start(spec, 20)
        until(lambda: answer.exists() and answer.read_text().endswith("\n"), what="the unit has told")
        client.stop(UNIT, 20)

    told, contents = json.loads(answer.read_text())
    assert {name: told[name] for name in values} == values
    assert {name: bytes.fromhex(content) for name, content in contents.items()} == credentials
    assert sorted(files.values(UNIT)) == sorted([*(v.encode() for v in NASTY), *credentials.values()])
    files.remove(UNIT)
    assert files.units() == []
    answer.unlink()
    program.unlink()


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,9}", fullmatch=True), st.text(max_size=30)))
def test_every_value_can_be_read_back_to_be_hidden(variables: dict[str, str]) -> None:
    assert env_file.values(env_file.render(variables)) == [variables[name] for name in sorted(variables)]


def test_files_are_for_their_owner_alone_and_are_replaced_whole(tmp_path: Path) -> None:
    files = UnitFiles(tmp_path / "inputs")
    files.write(UNIT, env_file.render({"A": "1"}), {"OLD": b"1"})
    files.write(UNIT, env_file.render({"A": "2"}), {"NEW": b"2"})

    assert files.values(UNIT) == [b"2", b"2"]
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "inputs").rglob("*")} == {0}
    assert (tmp_path / "inputs").stat().st_mode & 0o777 == 0o700


def test_one_group_may_read_them(tmp_path: Path) -> None:
    files = UnitFiles(tmp_path / "inputs", "daemon")
    files.write(UNIT, env_file.render({"A": "1"}), {"KEY": b"2"})

    found = [tmp_path / "inputs", *(tmp_path / "inputs").rglob("*")]
    assert {path.group() for path in found} == {"daemon"}
    assert {path.stat().st_mode & 0o777 for path in found} == {0o750, 0o640}
    with pytest.raises(Unavailable, match="KENNEL_INPUTS_GROUP"):
        UnitFiles(tmp_path / "inputs", "nobody-has-this").write(UNIT, "", {})


def test_a_unit_without_files_has_none(tmp_path: Path) -> None:
    files = UnitFiles(tmp_path / "inputs")

    assert files.of(UNIT) == ("", {})
    assert files.values(UNIT) == []
    files.remove(UNIT)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "inputs").write_text("a file")

    with pytest.raises(Unavailable, match=r"unit files: write: .*inputs"):
        UnitFiles(tmp_path / "inputs").write(UNIT, "", {})
