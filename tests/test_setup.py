"""The scripts that fetch and build servers: nothing twice, and one line where something is missing."""

import shutil
import subprocess
from pathlib import Path

import pytest

DEV = Path(__file__).parents[1] / "deploy/dev"
PLAIN = (
    "awk",
    "bash",
    "basename",
    "cat",
    "cut",
    "dirname",
    "grep",
    "head",
    "mktemp",
    "realpath",
    "rm",
    "sed",
    "sort",
)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH with no compiler, no Java and no package manager."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in PLAIN:
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


@pytest.mark.parametrize(
    ("script", "tool"),
    [("get-garage", "cargo"), ("get-keycloak", "java"), ("get-caddy", "go"), ("get-gitea", "go")],
)
def test_a_server_that_cannot_be_built_here_is_left_out_in_one_line(script, tool, bare, tmp_path):
    done = subprocess.run(
        [DEV / script, tmp_path / "dest"],
        env={"PATH": str(bare), "HOME": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) == 1
    assert tool in done.stderr.replace("get-gitea", "")
    assert not (tmp_path / "dest").exists()


def test_a_caddy_that_is_there_is_not_built_again(bare, tmp_path):
    (tmp_path / "caddy").write_text("#!/bin/sh\n# dep\tgithub.com/caddyserver/caddy/v2\tv2.11.9\th1:\n")
    (tmp_path / "caddy").chmod(0o755)

    done = subprocess.run(
        [DEV / "get-caddy", tmp_path], env={"PATH": str(bare)}, check=False, capture_output=True
    )

    assert (done.returncode, done.stderr) == (0, b"")
