"""A real nix with a store of its own for the session, and the stand-ins for devenv and cachix.

`nix` is the newest one that is installed, `each_nix` every one: the system's, and what deploy/dev/get-nix has
unpacked. Both put the variables in place, as a worker on a host with that nix has them.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

DEVENV = Path(__file__).parents[2] / "deploy/dev/devenv"
CACHE = Path(
    os.environ.get("DEV_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kennel"
)
CONFIG = """
experimental-features = nix-command flakes
build-users-group =
substituters =
flake-registry =
sandbox = false
max-jobs = 4
download-attempts = 1
fsync-metadata = false
"""


def programs() -> list[str]:
    """Folders with a nix: the system's first, the unpacked one last."""
    found = [shutil.which("nix"), shutil.which("nix", path=CACHE / "nix")]
    return list(dict.fromkeys(str(Path(program).parent) for program in found if program))


@dataclass(frozen=True)
class Nix:
    """One nix and its store. `tools` comes first on PATH: a test may put programs there."""

    program_dir: str
    home: Path
    tools: Path

    @property
    def store(self) -> Path:
        return self.home / "store"

    @property
    def variables(self) -> dict[str, str]:
        """The environment that makes a program use this nix and this store."""
        return {
            "NIX_STORE_DIR": str(self.store),
            "NIX_STATE_DIR": str(self.home / "var"),
            "NIX_LOG_DIR": str(self.home / "log"),
            "NIX_CONF_DIR": str(self.home / "etc"),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "PATH": f"{self.tools}:{DEVENV}:{self.program_dir}:/usr/bin:/bin",
        }

    def run(self, *argv: str, cwd: Path | None = None) -> str:
        """Run a program with these variables; returns what it prints."""
        environment = os.environ | self.variables
        done = subprocess.run(
            argv, cwd=cwd, env=environment, check=False, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
        return done.stdout.strip()

    def tool(self, name: str, script: str) -> None:
        """Put a shell script in front of everything else on PATH."""
        self.tools.mkdir(exist_ok=True)
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture(scope="session")
def nix_homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store, state and configuration for each nix."""
    homes = {}
    for number, program in enumerate(programs()):
        homes[program] = tmp_path_factory.mktemp(f"nix{number}")
        (homes[program] / "etc").mkdir()
        (homes[program] / "etc/nix.conf").write_text(CONFIG)
    return homes


@pytest.fixture
def nix(nix_homes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nix:
    """The newest nix of this machine."""
    return _use(programs()[-1], nix_homes, tmp_path, monkeypatch)


@pytest.fixture(params=programs() or ["no nix: run `make setup`"])
def each_nix(
    request: pytest.FixtureRequest,
    nix_homes: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Nix:
    """Every nix of this machine."""
    return _use(request.param, nix_homes, tmp_path, monkeypatch)


def _use(program: str, homes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nix:
    assert program in homes, "nix is not installed: run `make setup`"
    nix = Nix(program, homes[program], tmp_path / "tools")
    for name, value in nix.variables.items():
        monkeypatch.setenv(name, value)
    for name in ("NIX_REMOTE", "NIX_CONFIG", "NIX_PATH"):
        monkeypatch.delenv(name, raising=False)
    return nix
