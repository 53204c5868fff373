"""The discover phase: what the project declares, and which derivations that means."""

import json
import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from kennel_core import manifest
from kennel_core.adapters.process import Finished
from kennel_core.errors import BuildFailed
from kennel_core.manifest import Manifest, plain
from kennel_core.pipeline import commands
from kennel_core.pipeline.job import Job, failed, reason

PHASE = "discover"
CONFIG = ".config"  # a root's name that no package can have
MANIFEST_MAX = 1024**2  # bytes


class Package(BaseModel):
    """What evaluation says about one package."""

    model_config = ConfigDict(frozen=True)

    drv: str
    out: str
    name: str
    output: str
    program: str | None = None


class _Evaluated(BaseModel):
    have: list[str]
    found: dict[str, Package]


@dataclass(frozen=True)
class Discovered:
    """`config_path` is the store path with kennel.json; `nix` the version of nix."""

    manifest: Manifest
    config_path: str
    packages: dict[str, Package]
    nix: tuple[int, ...]


def discover(job: Job) -> Discovered:
    """Ask devenv for kennel.json, then nix for the packages that it names.

    Raises:
        BuildFailed: one sentence that says what is missing or malformed.
    """
    deadline = time.monotonic() + job.settings.discover_timeout
    _require(job, "devenv.nix", "declare the project's services there (scottylabs.kennel.services)")
    _require(job, "flake.nix", "give it a package of the same name for each service and site")
    _without_secretspec(job)
    devenv, version = job.run_all(
        [
            job.command(PHASE, commands.devenv_build(), job.settings.discover_timeout, capture=True),
            job.command(PHASE, commands.nix_version(), job.settings.discover_timeout, capture=True),
        ]
    )
    _must(devenv, f"devenv build {commands.CONFIG_ATTRIBUTE}", "mend devenv.nix and push again")
    _must(version, "nix --version", "is nix installed?")
    config_path = config_path_of(devenv.stdout)
    job.log.line(PHASE, f"configuration: {config_path}")
    declared = manifest.parse(_kennel_json(config_path))
    for warning in declared.warnings:
        job.log.line(PHASE, f"warning: {warning}")
    packages = _evaluate(job, config_path, declared, deadline)
    return Discovered(declared, config_path, packages, nix_version_of(version.stdout))


def config_path_of(stdout: str) -> str:
    """Find the store path in what `devenv build` printed: a path (1.x), or a JSON object (2.x).

    Raises:
        BuildFailed: there is none.
    """
    text = stdout.strip()
    begin = re.search(r"^\{", text, re.MULTILINE)
    if begin:
        try:
            paths = json.loads(text[begin.start() :])
        except ValueError:
            paths = {}
        found = paths.get(commands.CONFIG_ATTRIBUTE) or (
            next(iter(paths.values())) if len(paths) == 1 else None
        )
    else:
        found = next((line for line in reversed(text.splitlines()) if line.startswith("/")), None)
    if not isinstance(found, str) or not is_store_path(found):
        raise BuildFailed(
            PHASE,
            f"devenv printed no store path for {commands.CONFIG_ATTRIBUTE}, but {plain(text) or 'nothing'}; "
            "does devenv.nix set scottylabs.enable?",
        )
    return found


def nix_version_of(stdout: str) -> tuple[int, ...]:
    """Read the version out of ``nix (Nix) 2.26.3``; unreadable counts as new."""
    found = re.search(r"(\d+)\.(\d+)", stdout)
    return (int(found[1]), int(found[2])) if found else (99, 0)


def store_dir() -> str:
    """The directory of the Nix store."""
    return os.environ.get("NIX_STORE_DIR", "/nix/store")


def is_store_path(path: str) -> bool:
    """Tell whether `path` is a path directly below the store: nothing within it, nothing outside."""
    parent, _, name = path.rpartition("/")
    return parent == store_dir() and re.fullmatch(r"[0-9a-z]{32}-[A-Za-z0-9+._?=-]{1,211}", name) is not None


def system() -> str:
    """Nix's name for this kind of machine."""
    return f"{platform.machine()}-linux"


def _require(job: Job, name: str, advice: str) -> None:
    if not (job.source / name).is_file():
        raise BuildFailed(PHASE, f"there is no {name} at the root of the repository; {advice}")


def _without_secretspec(job: Job) -> None:
    """Keep devenv from resolving secrets, unless the repository has local settings of its own."""
    try:
        with (job.source / "devenv.local.yaml").open("x") as file:  # never through a symbolic link
            file.write(commands.NO_SECRETSPEC)
    except FileExistsError:
        job.log.line(PHASE, "devenv.local.yaml is the repository's own and stays as it is")


def _kennel_json(config_path: str) -> str:
    path = Path(config_path, "kennel.json").resolve()
    if not path.is_relative_to(Path(store_dir()).resolve()) or not path.is_file():
        raise BuildFailed(PHASE, f"{config_path} holds no kennel.json; run `devenv update` and push again")
    with path.open("rb") as file:
        content = file.read(MANIFEST_MAX + 1)
    if len(content) > MANIFEST_MAX:
        raise BuildFailed(PHASE, f"kennel.json is larger than {MANIFEST_MAX} bytes; declare less")
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise BuildFailed(
            PHASE, f"kennel.json is not UTF-8: {exc.reason} at byte {exc.start}; mend it"
        ) from exc


def _evaluate(job: Job, config_path: str, declared: Manifest, deadline: float) -> dict[str, Package]:
    """Turn the declared names into derivations, with one evaluation; root the configuration beside it."""
    names = declared.packages()
    left = max(deadline - time.monotonic(), 0.1)
    done, rooted = job.run_all(
        [
            job.command(PHASE, commands.nix_evaluate(system(), names), left, capture=True),
            job.command(PHASE, commands.nix_build(config_path, job.root(CONFIG)), left),
        ]
    )
    _must(rooted, "keeping the configuration", "is the Nix store writable?")
    if done.exit_code != 0 or done.timed_out:
        raise _culprit(job, names, done, deadline)
    try:
        evaluated = _Evaluated.model_validate_json(done.stdout)
    except ValidationError as exc:
        raise BuildFailed(
            PHASE, f"packages.{system()} of flake.nix are not all derivations; mend them"
        ) from exc
    missing = [name for name in names if name not in evaluated.found]
    if missing:
        have = ", ".join(plain(name) for name in evaluated.have[:20]) or "none"
        raise BuildFailed(
            PHASE,
            f"flake.nix has no packages.{system()}.{missing[0]}, which kennel.json names; "
            f"add it, or rename the service (there are: {have})",
        )
    for name, package in evaluated.found.items():
        paths_are_good = (
            is_store_path(package.out) and is_store_path(package.drv) and package.drv.endswith(".drv")
        )
        if not paths_are_good or not re.fullmatch(r"[A-Za-z0-9_-]+", package.output):
            raise BuildFailed(PHASE, f"package {name} of flake.nix is not a derivation; mend it")
    job.log.line(PHASE, f"packages: {', '.join(names)}")
    return evaluated.found


def _culprit(job: Job, names: list[str], whole: Finished, deadline: float) -> BuildFailed:
    """Evaluate name by name, to say which package is at fault."""
    if not whole.timed_out and len(names) > 1:
        left = max(deadline - time.monotonic(), 0.1)
        each = [
            job.command(PHASE, commands.nix_evaluate_one(system(), name), left, capture=True)
            for name in names
        ]
        for name, done in zip(names, job.run_all(each, job.settings.package_jobs), strict=True):
            if done.exit_code != 0 and "does not provide attribute" not in reason(done):
                return failed(done, f"evaluating package {name}", "mend flake.nix", "KENNEL_DISCOVER_TIMEOUT")
    return failed(whole, "evaluating flake.nix", "mend it and push again", "KENNEL_DISCOVER_TIMEOUT")


def _must(done: Finished, what: str, advice: str) -> None:
    if done.exit_code != 0 or done.timed_out:
        raise failed(done, what, advice, "KENNEL_DISCOVER_TIMEOUT")
