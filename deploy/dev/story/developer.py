"""A developer: a repository, pushes and pull requests, and what is built of them."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from story import HOME, ROOT, Surprise
from story.forge import Forge
from story.stack import PROGRAM, kennel, run, wait_until


class Project:
    """A project with a copy of an example as its work tree, which no forge knows of.

    Its repository is a folder, and the events of a forge are sent by hand.
    """

    forge: Forge | None = None

    def __init__(self, example: str) -> None:
        self.example, self.name = example, f"acme/{example}"
        self.tree = HOME / example
        shutil.copytree(ROOT / "examples" / example, self.tree)
        run("git", "init", "--quiet", "--initial-branch=main", self.tree)
        self.git("remote", "add", "origin", self.register())

    def register(self) -> str:
        """Make the repository and connect Kennel to it; gives the address for git."""
        bare = HOME / f"{self.example}.git"
        run("git", "init", "--quiet", "--bare", "--initial-branch=main", bare)
        kennel("project", "add", self.name, "--clone-url", f"file://{bare}")
        return str(bare)

    def git(self, *arguments: str) -> str:
        """Run git in the work tree."""
        name = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false")
        return run("git", *name, "-c", "http.proxy=", *arguments, cwd=self.tree)

    def push(self, message: str, ref: str = "main") -> None:
        """Commit the work tree and push it."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        self.git("push", "--quiet", "--force", "origin", f"HEAD:{ref}")

    @property
    def commit(self) -> str:
        """What was pushed last."""
        return self.git("rev-parse", "HEAD")

    def propose(self, message: str) -> str:
        """Open a pull request with the work tree; gives its ref."""
        self.push(message, "refs/pull/1/head")
        return "pr-1"

    def close(self, ref: str) -> None:
        """Close a pull request."""
        answer = self._deliver(ref, "--gone")
        if answer["status"] != "removed":
            raise Surprise(f"the close of {ref} was answered with {answer}")

    def build(self, ref: str, *, show: bool = False) -> tuple[str, str]:
        """Wait for the end of the build of what was pushed last; gives its status and its error."""
        return self.end_of(self.started(ref), show=show)

    def started(self, ref: str) -> int:
        """Give the build that the push started."""
        return int(self._deliver(ref)["build"])

    def end_of(self, build: int, *, show: bool = False) -> tuple[str, str]:
        """Wait for the end of a build; gives its status and its error."""
        argv: list[str | Path] = [PROGRAM, "exec", "kennel", "build", "log", "--follow", str(build)]
        quiet = None if show else subprocess.DEVNULL
        subprocess.run(argv, check=False, stdout=quiet, stderr=quiet, timeout=300)
        row = json.loads(kennel("build", "show", str(build), "--json"))
        return row["status"], row["error"] or ""

    def builds(self, ref: str) -> list[dict[str, Any]]:
        """List the builds of a ref, the newest first."""
        rows: list[dict[str, Any]] = json.loads(
            kennel("build", "list", "--project", self.name, "--ref", ref, "--json")
        )
        return rows

    def deployments(self, ref: str | None = None) -> list[dict[str, Any]]:
        """List what is deployed of the project, or of one of its refs."""
        rows = json.loads(kennel("deployment", "list", "--json"))
        return [row for row in rows if row["project"] == self.name and ref in (None, row["ref"])]

    def host(self, name: str, ref: str) -> str:
        """Give the host of a service or site."""
        (row,) = (row for row in self.deployments(ref) if row["name"] == name)
        return str(row["hosts"][0])

    def _deliver(self, ref: str, *options: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(kennel("webhook", "send", self.name, ref, *options, "--json"))
        return answer


class ForgeProject(Project):
    """The same on a real forge: pushes go over HTTP, and what follows from them comes from the forge."""

    forge: Forge

    def __init__(self, example: str, forge: Forge) -> None:
        self.forge = forge
        super().__init__(example)

    def register(self) -> str:
        """Make the repository; Kennel finds it on the forge and makes the webhook."""
        self.forge.repository(self.example)
        kennel("project", "add", self.name)
        return self.forge.clone_url(self.name)

    def propose(self, message: str) -> str:
        """Push a branch and, once it is built, open a pull request from it."""
        branch = message.lower().replace(" ", "-")
        self.push(message, f"refs/heads/{branch}")
        status, error = self.build(branch)
        if status != "done":
            raise Surprise(f"the branch {branch}: {status} {error}")
        return f"pr-{self.forge.open(self.name, branch, message)}"

    def close(self, ref: str) -> None:
        """Close the pull request and delete its branch, as the forge's button does."""
        self.forge.close(self.name, number(ref))

    def started(self, ref: str) -> int:
        """Wait until the forge's delivery has started the build of what was pushed last."""
        return self.build_of(ref, self.commit)

    def build_of(self, ref: str, commit: str) -> int:
        """Wait for the build of a commit; gives its id."""
        found: list[int] = []

        def seen() -> bool:
            found[:] = [row["id"] for row in self.builds(ref) if row["commit"] == commit]
            return bool(found)

        wait_until(f"the forge tells Kennel of {ref}", seen)
        return found[0]


def number(ref: str) -> int:
    """Give the number of a pull request."""
    return int(ref.removeprefix("pr-"))


def project(example: str, forge: Forge | None) -> Project:
    """Make a project, on the forge if there is one."""
    return ForgeProject(example, forge) if forge else Project(example)
