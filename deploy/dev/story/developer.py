"""A developer and the forge: a repository, pushes, and the events that follow from them."""

import json
import shutil
import subprocess
from typing import Any

from story import HOME, ROOT
from story.stack import PROGRAM, kennel, run


class Project:
    """A registered project, with a copy of an example as its work tree."""

    def __init__(self, example: str) -> None:
        self.name = f"acme/{example}"
        self.tree = HOME / example
        self._bare = HOME / f"{example}.git"
        shutil.copytree(ROOT / "examples" / example, self.tree)
        run("git", "init", "--quiet", "--bare", "--initial-branch=main", self._bare)
        run("git", "init", "--quiet", "--initial-branch=main", self.tree)
        self.git("remote", "add", "origin", str(self._bare))
        kennel("project", "add", self.name, "--clone-url", f"file://{self._bare}")

    def git(self, *arguments: str) -> str:
        """Run git in the work tree."""
        name = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false")
        return run("git", *name, *arguments, cwd=self.tree)

    def push(self, message: str, ref: str = "main") -> None:
        """Commit the work tree and push it."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        self.git("push", "--quiet", "--force", "origin", f"HEAD:{ref}")

    def deliver(self, ref: str, *options: str) -> dict[str, Any]:
        """Deliver the signed event; returns Kennel's answer."""
        answer: dict[str, Any] = json.loads(kennel("webhook", "send", self.name, ref, *options, "--json"))
        return answer

    def build(self, ref: str, *, show: bool = False) -> tuple[str, str]:
        """Deliver a push and wait for the end of its build; returns its status and its error."""
        number = str(self.deliver(ref)["build"])
        argv = [PROGRAM, "exec", "kennel", "build", "log", "--follow", number]
        quiet = None if show else subprocess.DEVNULL
        subprocess.run(argv, check=False, stdout=quiet, stderr=quiet, timeout=300)
        row = json.loads(kennel("build", "show", number, "--json"))
        return row["status"], row["error"] or ""

    def deployments(self, ref: str | None = None) -> list[dict[str, Any]]:
        """List what is deployed of the project, or of one of its refs."""
        rows = json.loads(kennel("deployment", "list", "--json"))
        return [row for row in rows if row["project"] == self.name and ref in (None, row["ref"])]

    def host(self, name: str, ref: str) -> str:
        """Give the host of a service or site."""
        (row,) = (row for row in self.deployments(ref) if row["name"] == name)
        return str(row["hosts"][0])
