"""What an operator installs is held to the code and to the programs that read it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNITS = ROOT / "deploy/systemd"
INSTALLED = "/opt/kennel"


def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    for path in UNITS.iterdir():
        shutil.copy(path, tmp_path)
    for path in tmp_path.glob("*.service"):  # the programs must exist where they are looked for
        path.write_text(path.read_text().replace(f"{INSTALLED}/.venv/bin", str(Path(sys.executable).parent)))
    names = sorted(
        str(path) for path in tmp_path.iterdir() if path.suffix in {".service", ".target", ".slice"}
    )

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    ours = [line for line in done.stderr.splitlines() if "kennel" in line]
    assert ours == []


def test_no_unit_takes_away_what_caddy_reads_while_kennel_is_stopped() -> None:
    kept = re.findall(
        r"^RuntimeDirectory=(.*)", "\n".join(p.read_text() for p in UNITS.iterdir()), re.MULTILINE
    )

    assert "kennel" not in " ".join(kept).split()  # what a unit keeps is removed when it stops
    assert "\nd /run/kennel 0755 kennel kennel\n" in (UNITS / "kennel.tmpfiles").read_text()


def commands(text: str) -> set[str]:
    """Give what a Procfile or a unit runs, without paths, options that differ, and escapes."""
    started = (
        r"(?:gunicorn -c deploy/gunicorn.conf.py|python -m kennel_tasks|celery --quiet -A kennel_tasks) .*"
    )
    found = re.findall(started, text)
    return {command.replace("%%", "%") for command in found if "flower" not in command}


def test_the_units_run_what_the_local_stack_runs() -> None:
    units = "\n".join(path.read_text() for path in UNITS.glob("*.service"))

    assert commands(units.replace(f"{INSTALLED}/", "")) == commands((ROOT / "Procfile").read_text())


@pytest.mark.parametrize("path", sorted(UNITS.glob("kennel-*.service")), ids=lambda path: path.stem)
def test_every_unit_is_confined_and_belongs_to_the_target(path: Path) -> None:
    text = path.read_text()

    for line in (
        "PartOf=kennel.target",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
    ):
        assert f"\n{line}" in text
    wanted = (UNITS / "kennel.target").read_text() + "kennel-migrate.service"  # the others require that one
    assert path.name in wanted


def test_the_makefile_explains_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"\.PHONY: (.*)", text)[1].split())

    assert set(re.findall(r"^([a-z-]+):.*##", text, re.MULTILINE)) == targets
