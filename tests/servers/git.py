"""A repository as a forge has it, and the work tree of somebody who pushes to it. Real git, file:// URLs."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

IDENTITY = {
    "GIT_CONFIG_GLOBAL": os.devnull,  # nothing of the person's own configuration
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}


class GitRepository:
    """A bare repository `origin` and a clone of it in `tree`."""

    def __init__(self, home: Path) -> None:
        self.origin = home / "origin.git"
        self.tree = home / "tree"
        self.url = f"file://{self.origin}"
        self.tree.mkdir(parents=True)
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(self.origin))
        # A forge hands out any commit that a ref reaches, by its id.
        self.git("-C", str(self.origin), "config", "uploadpack.allowReachableSHA1InWant", "true")
        self.git("init", "--quiet", "--initial-branch=main", ".")
        self.git("remote", "add", "origin", self.url)

    def git(self, *arguments: str) -> str:
        """Run git in the work tree; returns what it prints."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.tree,
            env={**os.environ, **IDENTITY},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str | bytes | None], message: str = "Change something") -> str:
        """Write the files (None removes one) and commit them on the present branch; returns the commit."""
        for name, content in files.items():
            path = self.tree / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.head()

    def head(self) -> str:
        """Give the commit that the work tree is at."""
        return self.git("rev-parse", "HEAD")

    def switch(self, branch: str) -> None:
        """Go to a branch, which is made when it is not there."""
        exists = self.git("branch", "--list", branch)
        self.git("switch", "--quiet", *([] if exists else ["--create"]), branch)

    def push(self, ref: str = "") -> str:
        """Push the present commit to `ref` (a branch name or a full ref; default: the present branch)."""
        target = ref or self.git("branch", "--show-current")
        full = target if target.startswith("refs/") else f"refs/heads/{target}"
        self.git("push", "--quiet", "--force", "origin", f"HEAD:{full}")
        return self.head()

    def delete(self, branch: str) -> None:
        """Delete a branch of the forge."""
        self.git("push", "--quiet", "origin", f":refs/heads/{branch}")


@pytest.fixture
def git_repo(tmp_path: Path) -> GitRepository:
    """An empty repository of this test's own."""
    return GitRepository(tmp_path / "git")
