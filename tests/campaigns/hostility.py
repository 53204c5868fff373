"""Hostile refs, repositories, declarations and builds on the real pipeline, watched by strace.

Every case is a branch of one repository; one process builds them all. What is refused leaves a sentence, what
is accepted is built; neither makes Kennel start a shell, or anybody write outside of the build.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kennel_core import builds, db, projects
from kennel_core.models import Build, BuildStatus, Project
from kennel_core.settings import Settings
from tests import hostile
from tests.observed import Seen, observe
from tests.servers.git import IDENTITY, GitRepository
from tests.servers.nix import Nix
from tests.servers.web import environment

ROOT = Path(__file__).parents[2]
DEVICES = ("/dev/null", "/dev/tty", "/dev/ptmx", "/dev/pts")  # nix gives a builder a terminal
PROGRAMS = {"git", "devenv", "nix"}  # what Kennel starts for a build
FLAKE = """
{
  outputs = { self }:
    let
      system = "%(system)s";
      build = name: script: derivation {
        inherit name system script;
        builder = "/bin/sh";
        args = [ "-euc" "eval \\"$script\\"" ];
        PATH = "/usr/bin:/bin";
      };
    in { packages.${system}."%(name)s" = build "%(name)s" (builtins.readFile ./script); };
}
"""
DEVENV_NIX = """{ pkgs, ... }:
{
  scottylabs.kennel.config = pkgs.runCommand "kennel-config" { json = ./declared; }
    "mkdir $out; cp $json $out/kennel.json";
}
"""
API = "mkdir -p $out/bin; echo '#!/bin/sh' > $out/bin/api; chmod 755 $out/bin/api"
Files = dict[str, str | bytes | None]


@dataclass(frozen=True)
class Case:
    """One input. `ends`: the status that its build must end with."""

    ref: str
    what: str
    files: Files
    ends: BuildStatus


@dataclass
class Outcome:
    """How many inputs there were, what strace saw, and what went wrong."""

    inputs: int = 0
    shells: list[list[str]] = field(default_factory=list)
    strange: list[list[str]] = field(default_factory=list)  # programs that Kennel has no business with
    outside: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def play(home: Path, settings: Settings, nix: Nix, share: float, seed: int) -> Outcome:
    """Build a share of the inputs; 1: all.

    Needs a database connection. `settings` are those of an empty database.
    """
    began = time.monotonic()
    repository = GitRepository(home / "forge")
    project = projects.add("acme/shop", repository.url, "main")
    chance = random.Random(seed)
    wanted = _pushed(project, repository, list(_chosen(share, chance)))
    wanted |= _plain_refs(project, repository, share, chance)
    seen = _watched(home, settings, nix)
    outcome = Outcome(inputs=len(wanted) + len(hostile.PATHS))
    _judge_builds(outcome, wanted)
    _judge_programs(outcome, seen, repository)
    allowed = (settings.work_dir, settings.gcroots_dir, nix.home, *map(Path, DEVICES))
    database = str(settings.database)
    outcome.outside = {
        path
        for path in seen.outside(*allowed)
        if path not in {database, f"{database}-wal", f"{database}-shm"}
    }
    outcome.seconds = time.monotonic() - began
    return outcome


def _some(kind: Sequence[Any], share: float, chance: random.Random) -> list[Any]:
    count = max(1, round(len(kind) * share))
    return [kind[at] for at in sorted(chance.sample(range(len(kind)), count))]


def _chosen(share: float, chance: random.Random) -> Iterator[Case]:
    def some(kind: Sequence[Any]) -> list[Any]:
        return _some(kind, share, chance)

    for number, text in enumerate(some(hostile.KENNEL_JSON)):
        yield Case(f"declares-{number}", repr(text), _project("api", API, text), BuildStatus.FAILED)
    for number, text in enumerate(some(hostile.ODD_KENNEL_JSON)):
        yield Case(f"odd-{number}", repr(text), _project("api", API, text), BuildStatus.BUILT)
    site, service = {"static_sites": {"web": {}}}, {"services": {"api": {}}}
    for number, script in enumerate(some(hostile.ODD_SITES)):
        yield Case(f"site-{number}", script, _project("web", script, site), BuildStatus.BUILT)
    for number, script in enumerate(some(hostile.BAD_SITES)):
        yield Case(f"bad-site-{number}", script, _project("web", script, site), BuildStatus.FAILED)
    for number, script in enumerate(some(hostile.BAD_SERVICES)):
        yield Case(f"bad-service-{number}", script, _project("api", script, service), BuildStatus.FAILED)
    traps = _project("api", API, service) | hostile.TRAPS
    yield Case("traps", "files that run something", traps | {".gitmodules": None}, BuildStatus.BUILT)
    yield Case("submodule", "a submodule's URL", traps, BuildStatus.FAILED)
    for ref in some(hostile.REFS[::4]):
        yield Case(ref, "a ref", _project("api", API, service), BuildStatus.BUILT)


def _project(name: str, script: str, kennel_json: Any) -> Files:
    flake = FLAKE % {"system": f"{os.uname().machine}-linux", "name": name}
    text = hostile.text_of(kennel_json)
    return {"flake.nix": flake, "devenv.nix": DEVENV_NIX, "declared": text.encode(), "script": script}


def _pushed(project: Project, repository: GitRepository, cases: Sequence[Case]) -> dict[int, Case]:
    """Make a branch for each case, in one go, and a build."""
    _import(repository, cases)
    wanted = {}
    with db.write():
        for case in cases:
            commit = repository.git("-C", str(repository.origin), "rev-parse", f"refs/heads/{case.ref}")
            wanted[_build(project, case.ref, commit)] = case
    return wanted


def _import(repository: GitRepository, cases: Sequence[Case]) -> None:
    """Write commits without a work tree: git-fast-import(1)."""
    stream = bytearray()
    for case in cases:
        stream += f"commit refs/heads/{case.ref}\ncommitter Ada <ada@example.org> 0 +0000\ndata 0\n".encode()
        for name, content in case.files.items():
            if content is not None:
                data = content.encode() if isinstance(content, str) else content
                stream += f"M 644 inline {name}\ndata {len(data)}\n".encode() + data + b"\n"
    argv = ["git", "-C", repository.origin, "fast-import", "--quiet", "--force"]
    subprocess.run(argv, input=bytes(stream), env=os.environ | IDENTITY, check=True, timeout=60)


def _plain_refs(
    project: Project, repository: GitRepository, share: float, chance: random.Random
) -> dict[int, Case]:
    """Push a repository with strange paths and nothing to build to every ref: cloning is all that is done."""
    commit = repository.commit(dict.fromkeys(hostile.PATHS, hostile.MARK))
    refs = [ref for ref in _some(hostile.REFS, share, chance) if not _is_ref(repository, ref)]
    repository.git("push", "--quiet", "origin", *(f"HEAD:refs/heads/{ref}" for ref in refs))
    found = {}
    with db.write():
        for ref in refs:
            found[_build(project, ref, commit)] = Case(ref, "a ref", {}, BuildStatus.FAILED)
        for ref in _some(hostile.REFUSED_REFS, share, chance):  # no webhook lets them through
            if ref.encode(errors="ignore").decode() == ref:  # a database takes it
                found[_build(project, ref, commit)] = Case(ref, "a bad ref", {}, BuildStatus.FAILED)
    return found


def _is_ref(repository: GitRepository, ref: str) -> bool:
    return bool(repository.git("-C", str(repository.origin), "for-each-ref", f"refs/heads/{ref}"))


def _build(project: Project, ref: str, commit: str) -> int:
    build = builds.enqueue(project, ref, commit, time.time())
    return int(build.id)


def _watched(home: Path, settings: Settings, nix: Nix) -> Seen:
    env = environment(settings) | nix.variables | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
    env["KENNEL_LOG_FORMAT"] = "json"
    return observe([sys.executable, "-m", "tests.campaigns.work_all"], home / "trace", env, home)


def _judge_builds(outcome: Outcome, wanted: Mapping[int, Case]) -> None:
    for number, case in wanted.items():
        build = builds.get(number)
        error = build.error or ""
        if build.status != case.ends:
            outcome.wrong.append(f"{case.what[:200]}: {build.status} ({error!a})")
        elif case.ends == BuildStatus.FAILED and not (error and error.isprintable() and len(error) < 2000):
            outcome.wrong.append(f"{case.what[:200]}: is refused with {error!a}")
        log = builds.full_log(number)
        if any(
            (character < " " and character not in "\n\t") or "\x7f" <= character <= "\x9f"
            for character in log
        ):
            outcome.wrong.append(f"{case.what[:200]}: its log has control characters")
    left = Build.select().where(Build.status << [BuildStatus.QUEUED, BuildStatus.BUILDING]).count()
    if left:
        outcome.wrong.append(f"{left} builds have not ended")


def _judge_programs(outcome: Outcome, seen: Seen, repository: GitRepository) -> None:
    """Kennel starts three programs and no shell; a shell that another one starts is given nothing hostile.

    Git starts one to reach a repository in files, and nix one for each build, as the build asks for.
    """
    upload = f"git-upload-pack '{repository.origin}'"
    for start in seen.starts:
        if start.by_root and start.is_shell:
            outcome.shells.append(start.argv)
        elif hostile.MARK in start.name or (start.by_root and start.name not in PROGRAMS):
            outcome.strange.append(start.argv)
        elif start.is_shell:
            told = start.argv[1:]
            harmless = (
                told[:1] == ["-euc"] or told[:2] == ["-c", upload] or told == ["-c", f'{upload} "$@"', upload]
            )
            if not harmless and hostile.MARK in json.dumps(told):
                outcome.shells.append(start.argv)
