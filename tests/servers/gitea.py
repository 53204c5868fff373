"""A real Gitea, with people, organisations and repositories; its pushes and deliveries are real ones.

`gitea` is the session's server. Each test makes repositories of its own: `gitea.repository()`. People:
`root1` (the admin), `ada` (owns repositories), `mallory` (a stranger), `kennel-bot` (Kennel's own user, whose
token has the least scopes).
"""

import itertools
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from kennel_core.adapters.forge.doorway import SCOPES
from kennel_core.settings import Settings
from tests.servers.caddy import cache
from tests.servers.git import IDENTITY
from tests.servers.ports import free_port
from tests.waiting import until

ADMIN, OWNER, STRANGER, BOT = "root1", "ada", "mallory", "kennel-bot"
CONFIGURATION = """
APP_NAME = forge
RUN_USER = {user}
RUN_MODE = prod
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true
WORK_PATH = {home}
[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = {port}
ROOT_URL = http://127.0.0.1:{port}/
DISABLE_SSH = true
OFFLINE_MODE = true
LFS_START_SERVER = false
STATIC_ROOT_PATH = {static}
APP_DATA_PATH = {home}/data
[database]
DB_TYPE = sqlite3
PATH = {home}/gitea.db
[repository]
ROOT = {home}/repositories
DEFAULT_BRANCH = main
[security]
INSTALL_LOCK = true
SECRET_KEY = only-for-tests
INTERNAL_TOKEN = {internal}
PASSWORD_HASH_ALGO = pbkdf2_v1
[oauth2]
ENABLED = false
JWT_SECRET = b25seS1mb3ItdGVzdHMtb25seS1mb3ItdGVzdHMtMTI
[webhook]
ALLOWED_HOST_LIST = loopback
DELIVER_TIMEOUT = 5
[queue]
TYPE = channel
[cache]
ADAPTER = memory
[session]
PROVIDER = memory
[mailer]
ENABLED = false
[indexer]
ISSUE_INDEXER_TYPE = db
REPO_INDEXER_ENABLED = false
[actions]
ENABLED = false
[packages]
ENABLED = false
[cron]
ENABLED = false
[log]
MODE = console
LEVEL = warn
"""


class GiteaServer:
    """One Gitea that keeps everything below `home`; ends with the process that started it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api_url = f"{self.url}/api/v1"
        self.tokens: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)

    # --- the server ---

    def set_up(self) -> None:
        """Make the database, and the people with a token each."""
        program = cache() / "gitea" / "gitea"
        assert program.exists(), "Gitea is not there: run `make setup` (it needs go and gcc)"
        self.home.joinpath("app.ini").write_text(
            CONFIGURATION.format(
                home=self.home,
                port=self.port,
                user=os.environ.get("USER") or "root",
                static=cache() / "gitea" / "static",
                internal="only-for-tests",
            )
        )
        self.command("migrate")
        self.make_user(ADMIN, "all", "--admin")

    def make_user(self, name: str, scopes: str = "all", *options: str) -> None:
        """Make a person, and a token with these scopes."""
        self.command(
            *("admin", "user", "create", "--username", name, "--password", f"{name}-password"),
            *("--email", f"{name}@example.org", "--must-change-password=false", *options),
        )
        self.tokens[name] = self.make_token(name, scopes)

    def make_token(self, name: str, scopes: str) -> str:
        """Make another token of a person."""
        said = self.command(
            *("admin", "user", "generate-access-token", "--username", name, "--raw"),
            *("--token-name", f"token-{next(self._names)}", "--scopes", scopes),
        )
        found = re.search(r"^[0-9a-f]{40}$", said, re.MULTILINE)  # beside warnings
        assert found, said
        return found[0]

    def start(self) -> None:
        """Run it until it answers."""
        with (self.home / "gitea.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._argv("web")],
                env=self._environment(),
                stdout=log,
                stderr=log,
            )
        until(self.answers, timeout=60, what=f"Gitea answers ({self.home / 'gitea.log'})")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "gitea.log").read_text()[-2000:]
        try:
            return requests.get(f"{self.url}/api/healthz", timeout=5).ok
        except requests.RequestException:
            return False

    def stop(self) -> None:
        """End it; what it holds stays."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def command(self, *arguments: str) -> str:
        """Run one of Gitea's own commands; returns what it prints."""
        done = subprocess.run(
            self._argv(*arguments),
            env=self._environment(),
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"gitea {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def _argv(self, *arguments: str) -> list[str]:
        return [str(cache() / "gitea" / "gitea"), "--config", str(self.home / "app.ini"), *arguments]

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "USER": os.environ.get("USER") or "root"}

    # --- the API, as a person ---

    def request(self, method: str, path: str, user: str = ADMIN, **body: Any) -> requests.Response:
        headers = {"Authorization": f"token {self.tokens[user]}"}
        return requests.request(
            method,
            f"{self.api_url}{path}",
            json=None if method == "GET" else body,
            headers=headers,
            timeout=30,
        )

    def call(self, method: str, path: str, user: str = ADMIN, **body: Any) -> Any:
        """Ask as `user`; returns the JSON of the answer."""
        answer = self.request(method, path, user, **body)
        assert answer.ok, f"{method} {path} as {user}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def repository(
        self,
        name: str = "",
        *,
        owner: str = OWNER,
        private: bool = False,
        bot: str = "admin",
        empty: bool = True,
    ) -> str:
        """Make a repository of `owner`, who may be an organisation; returns ``owner/name``.

        `bot` is what Kennel's user may do there; empty: nothing. A repository that is not `empty` has one
        commit, of which nothing is delivered any more: what comes of a push arrives when the push is over.
        """
        name = name or f"shop-{next(self._names)}"
        place = "/user/repos" if owner in self.tokens else f"/orgs/{owner}/repos"
        user = owner if owner in self.tokens else ADMIN
        self.call("POST", place, user, name=name, private=private, default_branch="main", auto_init=not empty)
        if bot:
            self.allow(f"{owner}/{name}", BOT, bot)
        return f"{owner}/{name}"

    def organisation(self) -> str:
        """Make an organisation; returns its name."""
        name = f"org-{next(self._names)}"
        self.call("POST", "/orgs", username=name)
        return name

    def allow(self, full_name: str, user: str, permission: str) -> None:
        """Let somebody read, write or admin a repository."""
        self.call("PUT", f"/repos/{full_name}/collaborators/{user}", permission=permission)

    def fork(self, full_name: str, user: str = STRANGER) -> str:
        """Fork as `user`; returns ``user/name``."""
        made = self.call("POST", f"/repos/{full_name}/forks", user)
        return str(made["full_name"])

    def rename(self, full_name: str, name: str) -> str:
        """Rename a repository; returns ``owner/name``."""
        return str(self.call("PATCH", f"/repos/{full_name}", name=name)["full_name"])

    def transfer(self, full_name: str, owner: str) -> str:
        """Give a repository to somebody else; returns ``owner/name``."""
        self.call("POST", f"/repos/{full_name}/transfer", new_owner=owner)
        return f"{owner}/{full_name.partition('/')[2]}"

    def pull_request(  # what a pull request has
        self,
        full_name: str,
        head: str,
        *,
        base: str = "main",
        title: str = "Change",
        user: str = OWNER,
        **body: Any,
    ) -> int:
        """Open a pull request from a branch, or from ``user:branch`` of a fork; returns its number."""
        path = f"/repos/{full_name}/pulls"
        return int(self.call("POST", path, user, head=head, base=base, title=title, **body)["number"])

    def close(self, full_name: str, number: int) -> None:
        """Close a pull request."""
        self.call("PATCH", f"/repos/{full_name}/pulls/{number}", state="closed")

    def comment(self, full_name: str, number: int, body: str, user: str = OWNER) -> int:
        """Comment as `user`; returns the comment's id."""
        return int(self.call("POST", f"/repos/{full_name}/issues/{number}/comments", user, body=body)["id"])

    def comments(self, full_name: str, number: int) -> list[dict[str, Any]]:
        """Read the comments of a pull request."""
        found: list[dict[str, Any]] = self.call("GET", f"/repos/{full_name}/issues/{number}/comments")
        return found

    def reactions(self, full_name: str, comment_id: int) -> list[tuple[str, str]]:
        """Read the reactions to a comment: who and what."""
        found = self.call("GET", f"/repos/{full_name}/issues/comments/{comment_id}/reactions") or []
        return [(one["user"]["login"], one["content"]) for one in found]

    def statuses(self, full_name: str, commit: str) -> dict[str, tuple[str, str, str]]:
        """Read what each context says now: state, description, target URL."""
        found = self.call("GET", f"/repos/{full_name}/commits/{commit}/status?limit=50")["statuses"] or []
        return {one["context"]: (one["status"], one["description"], one["target_url"]) for one in found}

    def hooks(self, full_name: str) -> list[dict[str, Any]]:
        """Read the webhooks of a repository."""
        found: list[dict[str, Any]] = self.call("GET", f"/repos/{full_name}/hooks")
        return found

    def head(self, full_name: str, branch: str = "main") -> str:
        """Read the commit that a branch is at."""
        return str(self.call("GET", f"/repos/{full_name}/branches/{branch}")["commit"]["id"])

    # --- git over HTTP ---

    def clone_url(self, full_name: str, user: str = "") -> str:
        """Give the URL for git; with the password of `user`, whose it then is."""
        who = f"{user}:{self.tokens[user]}@" if user else ""
        return f"http://{who}127.0.0.1:{self.port}/{full_name}.git"

    def tree(self, full_name: str, home: Path, user: str = OWNER) -> "WorkTree":
        """Make a work tree, with what there is, whose pushes go to the repository as `user`."""
        made = WorkTree(self.clone_url(full_name, user), home)
        if made.git("ls-remote", "--heads", "origin", "main"):
            made.git("pull", "--quiet", "origin", "main")
        return made


class WorkTree:
    """The checkout of somebody who pushes over HTTP."""

    def __init__(self, url: str, home: Path) -> None:
        self.path = home
        home.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main", ".")
        self.git("remote", "add", "origin", url)

    def git(self, *arguments: str) -> str:
        """Run git; returns what it prints."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env={**os.environ, **IDENTITY, "GIT_TERMINAL_PROMPT": "0"},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str], message: str = "Change something") -> str:
        """Write the files and commit them on the present branch; returns the commit."""
        for name, content in files.items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def push(self, *refs: str, force: bool = False) -> str:
        """Push the present branch, or refspecs, in one push; returns the present commit."""
        wanted = refs or (self.git("branch", "--show-current"),)
        self.git("push", "--quiet", *(["--force"] if force else []), "origin", *wanted)
        return self.git("rev-parse", "HEAD")


@pytest.fixture(scope="session")
def gitea(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GiteaServer]:
    """The session's server."""
    server = GiteaServer(tmp_path_factory.mktemp("gitea"))
    server.set_up()
    for name in (OWNER, STRANGER):
        server.make_user(name)
    server.make_user(BOT, ",".join(SCOPES))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def forge_settings(settings: Settings, gitea: GiteaServer, tmp_path: Path) -> Settings:
    """Settings that lead to the session's Gitea, with the token of Kennel's user."""
    file = tmp_path / "forge-token"
    file.write_text(f"{gitea.tokens[BOT]}\n")
    return settings.model_copy(update={"forge_url": gitea.url, "forge_token_file": file})
