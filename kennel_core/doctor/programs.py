"""The programs that builds run, and their versions."""

import re
import shutil
import subprocess

from kennel_core.doctor.checks import Check, Checks, failed, ok
from kennel_core.settings import Settings

TIMEOUT_S = 20.0
LEAST = {"git": (2, 30), "nix": (2, 8), "devenv": (1, 0)}


def examine(settings: Settings) -> Checks:
    """Ask each for its version, on the PATH of this process; the builder may have another one."""
    for name, least in LEAST.items():
        yield _check(name, least)
    if settings.cachix_cache:
        yield _check("cachix", (1, 0))


def _check(name: str, least: tuple[int, int]) -> Check:
    program = shutil.which(name)
    remedy = f"install {name} {least[0]}.{least[1]} or newer, where the builder's PATH finds it"
    if program is None:
        return failed(name, "it is not on PATH", remedy)
    try:
        done = subprocess.run(
            [program, "--version"], check=False, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return failed(name, f"{program} cannot be run: {exc}", remedy)
    said = (done.stdout or done.stderr).strip().partition("\n")[0]
    version = re.search(r"(\d+)\.(\d+)", said)
    if done.returncode != 0 or version is None or (int(version[1]), int(version[2])) < least:
        return failed(name, f"{program} says: {said[:100]}", remedy)
    return ok(name, f"{said} at {program}")
