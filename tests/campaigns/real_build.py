"""One build by the real tools (git, devenv, nix), killed at one of its effects and taken again."""

import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from kennel_core import builds, db, lease, migrations, pipeline, projects
from kennel_core.adapters import process_tree
from kennel_core.models import Build, BuildStatus, Deployment, Project
from kennel_core.settings import Settings
from tests.campaigns import forked
from tests.servers import nix, stack
from tests.servers.git import GitRepository

SLOW = "echo at work; sleep 0.5"  # so that a kill finds nix at work


@dataclass(frozen=True)
class Played:
    """What one build did and left; `problems` compares it with one that was not killed."""

    effects: tuple[str, ...]
    killed: bool
    left: list[str]


class RealBuild:
    """Plays builds in a directory of its own, each of another commit, so that nix has something to build."""

    def __init__(self, home: Path) -> None:
        self.home = home
        program = nix.programs()[-1]
        self._nix = nix.Nix(program, home / "nix", home / "tools")
        (home / "nix/etc").mkdir(parents=True)
        (home / "nix/etc/nix.conf").write_text(nix.CONFIG)
        (home / "tools").mkdir()
        self._repository = GitRepository(home / "git")
        self._settings = Settings(
            state_dir=home / "state",
            runtime_dir=home / "run",
            gcroots_dir=home / "nix/var/gcroots/kennel",
            git_allow_file=True,
        )
        self._number = 0

    def play(self, kill_at: int | None) -> Played:
        """Build once; a build that was killed is taken again once its lease is over."""
        self._number += 1
        for path in (self._settings.state_dir, self._settings.gcroots_dir):
            shutil.rmtree(path, ignore_errors=True)
        commit = self._repository.commit(stack.files(str(self._number), before=SLOW))
        self._repository.push("main")
        forked.run(lambda: self._queue(commit), self.home)
        ended = forked.run(self._build, self.home, kill_at)
        if ended.killed:
            forked.run(self._build_again, self.home)
        return Played(ended.effects, ended.killed, forked.run(self._look, self.home).value)

    # --- in the child

    def _queue(self, commit: str) -> None:
        db.configure(self._settings.database)
        projects.create_secret_key(self._settings.secret_key_file)
        migrations.migrate(self._settings.database)
        with db.connection(), db.write():
            projects.add("acme/shop", self._repository.url, "main")
            builds.enqueue(Project.get(), "main", commit, time.time())

    def _build(self) -> None:
        os.environ.update(self._nix.variables)
        for name in ("NIX_REMOTE", "NIX_CONFIG", "NIX_PATH"):
            os.environ.pop(name, None)
        db.configure(self._settings.database)
        with db.connection():
            build = lease.claim(time.time())
            if build is not None:
                pipeline.run(build, self._settings)

    def _build_again(self) -> None:
        db.configure(self._settings.database)
        with db.connection():
            Build.update(lease_until=1.0).where(Build.status == BuildStatus.BUILDING).execute()
            builds.forgotten(time.time(), 2)
        self._build()

    def _look(self) -> list[str]:
        db.configure(self._settings.database)
        with db.connection():
            lines = [f"build {row.status} {row.error} {row.outputs}" for row in Build.select()]
            lines += [f"row {row.name} {row.store_path} {row.command}" for row in Deployment.select()]
            phases = {
                line
                for row in Build.select()
                for line in builds.full_log(row.id).splitlines()
                if "===" in line
            }
        lines += sorted(phases)
        roots = self._settings.gcroots_dir
        lines += sorted(f"root {path.name} {path.resolve()} {path.exists()}" for path in roots.iterdir())
        lines += [f"left {path}" for path in self._settings.work_dir.iterdir()]
        lines += [f"process {pid}" for pid in self._processes()]
        return [re.sub(r"/[0-9a-z]{32}-", "/HASH-", line) for line in lines]

    def _processes(self) -> list[int]:
        named = f"={self._settings.work_dir}/".encode()
        found = []
        for pid, process in process_tree.table().items():
            if process.state != "Z" and pid != os.getpid() and named in process_tree._environment(pid):
                found.append(pid)
        return found
