"""The forge, as people see it: what they do there, and what it shows them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from story import Surprise
from story.stack import answers

OWNER, STRANGER, BOT = "ada", "mallory", "kennel-bot"
ORGANISATION = "acme"
MARKER = "<!-- kennel-deployment -->"


class Forge:
    """The stack's own Gitea, asked over its API with the passwords of people."""

    def __init__(self, url: str, token_file: str) -> None:
        self.url = url
        self._token_file = Path(token_file)
        self._session = requests.Session()
        self._session.trust_env = False  # it is on this machine, whatever the proxy

    def is_ready(self) -> bool:
        """Tell whether it answers and Kennel has its token."""
        return self._token_file.exists() and answers(f"{self.url}/api/healthz")

    def call(self, method: str, path: str, user: str = OWNER, **body: object) -> Any:
        """Ask as somebody; gives the JSON of the answer."""
        answer = self._session.request(
            method,
            f"{self.url}/api/v1{path}",
            auth=(user, password(user)),
            json=None if method == "GET" else body,
            timeout=30,
        )
        if not answer.ok:
            raise Surprise(f"{method} {path} as {user}: {answer.status_code} {answer.text.strip()}")
        return answer.json() if answer.content else None

    def found(self, path: str) -> bool:
        """Tell whether there is such a thing."""
        return self._session.get(f"{self.url}/api/v1{path}", timeout=30).ok

    def clone_url(self, repository: str, user: str = OWNER) -> str:
        """Spell the address of a repository for git, with somebody's password."""
        host = urlsplit(self.url).netloc
        return f"http://{user}:{password(user)}@{host}/{repository}.git"

    def repository(self, name: str) -> str:
        """Make an empty repository of which Kennel's user is an admin; gives ``acme/NAME``."""
        if not self.found(f"/orgs/{ORGANISATION}"):
            self.call("POST", "/orgs", username=ORGANISATION)
        self.call("POST", f"/orgs/{ORGANISATION}/repos", name=name, default_branch="main")
        full = f"{ORGANISATION}/{name}"
        self.call("PUT", f"/repos/{full}/collaborators/{BOT}", permission="admin")
        return full

    def fork(self, repository: str) -> str:
        """Let the stranger fork; gives the fork's name."""
        return str(self.call("POST", f"/repos/{repository}/forks", STRANGER)["full_name"])

    def open(self, repository: str, head: str, title: str, user: str = OWNER) -> int:
        """Open a pull request from a branch, or ``user:branch`` of a fork; gives its number."""
        path = f"/repos/{repository}/pulls"
        return int(self.call("POST", path, user, head=head, base="main", title=title)["number"])

    def close(self, repository: str, number: int) -> None:
        """Close a pull request, and delete its branch if it is one of the repository."""
        pull = self.call("PATCH", f"/repos/{repository}/pulls/{number}", state="closed")
        if pull["head"]["repo"]["full_name"] == repository:
            self.call("DELETE", f"/repos/{repository}/branches/{pull['head']['ref']}")

    def say(self, repository: str, number: int, words: str, user: str = OWNER) -> int:
        """Comment on a pull request; gives the comment's id."""
        return int(self.call("POST", f"/repos/{repository}/issues/{number}/comments", user, body=words)["id"])

    def comment(self, repository: str, number: int) -> str:
        """Read Kennel's comment on a pull request; empty before there is one."""
        found = self.call("GET", f"/repos/{repository}/issues/{number}/comments")
        ours = [one["body"] for one in found if one["user"]["login"] == BOT and MARKER in one["body"]]
        if len(ours) > 1:
            raise Surprise(f"{repository}#{number} has {len(ours)} comments of Kennel's")
        return ours[0] if ours else ""

    def reactions(self, repository: str, comment: int) -> list[str]:
        """Read how Kennel answered to a comment."""
        found = self.call("GET", f"/repos/{repository}/issues/comments/{comment}/reactions") or []
        return [one["content"] for one in found if one["user"]["login"] == BOT]

    def statuses(self, repository: str, commit: str) -> dict[str, tuple[str, str]]:
        """Read what each context says of a commit: its state and a sentence."""
        found = self.call("GET", f"/repos/{repository}/commits/{commit}/status?limit=50")["statuses"] or []
        return {one["context"]: (one["status"], one["description"]) for one in found}


def of(env: Mapping[str, str]) -> Forge | None:
    """Give the stack's forge, if it has one."""
    if "forge" not in env["STACK_SERVERS"].split():
        return None
    return Forge(env["KENNEL_FORGE_URL"], env["KENNEL_FORGE_TOKEN_FILE"])


def password(user: str) -> str:
    return f"{user}-password"
