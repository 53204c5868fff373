"""Client for the part of the API of Forgejo and Gitea that Kennel uses.

A token with `write:repository` and `write:issue` is enough. Hooks, and other people's permission, are for
admins of the repository.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote

from kennel_core import forge_records as records
from kennel_core.adapters.forge.doorway import SCOPES, TIMEOUT_S, Doorway, MissingScope
from kennel_core.errors import NotFound, Rejected, Unavailable
from kennel_core.forge_records import Comment, Hook, Pull, Repository
from kennel_core.settings import Settings

__all__ = ["Comment", "Forge", "Hook", "Pull", "Repository"]

NOBODY = "kennel-looks-for-nobody"  # an owner and a repository that are not there

T = TypeVar("T")


class Forge:
    """One forge, seen with the rights of the token's user. May be used by several threads.

    A forge that is silent for `timeout` seconds counts as down. Repositories are named ``owner/name``; the
    name that one had before it was renamed will do. Every method raises `Unavailable`, `Rejected` and
    `NotFound` as `doorway.Doorway` says, and making one `ConfigError` without a URL or with an unreadable
    token.
    """

    def __init__(self, settings: Settings, timeout: float = TIMEOUT_S) -> None:
        self._api = Doorway(settings, timeout)

    def version(self) -> str:
        """Ask for its version, such as ``1.26.0`` or, of a Forgejo, ``10.0.3+gitea-1.22.0``."""
        what = "ask for the version"
        return _read(lambda answer: str(answer["version"]), self._api.get("/version", what), what)

    def hook_type(self) -> str:
        """Name the type of webhook that it takes: ``forgejo`` or ``gitea``."""
        return "forgejo" if "gitea" in self.version() else "gitea"

    def who(self) -> str:
        """Ask whose token it is; empty when it lacks `read:user`, which nothing else needs."""
        try:
            return _read(lambda answer: str(answer["login"]), self._api.get("/user", "ask who I am"), "who")
        except MissingScope:
            return ""

    def missing_scopes(self) -> list[str]:
        """Name the scopes of `doorway.SCOPES` that the token lacks: tried on a repository that nobody has."""
        nowhere = f"/repos/{NOBODY}/{NOBODY}"
        tried = (f"{nowhere}/hooks/1/tests", f"{nowhere}/issues/1/comments")
        return [scope for scope, path in zip(SCOPES, tried, strict=True) if not self._may_write(scope, path)]

    def _may_write(self, scope: str, path: str) -> bool:
        try:
            self._api.write("POST", path, f"try {scope}", {"body": "-"})
        except MissingScope:
            return False
        except NotFound:
            return True
        return True

    # --- repositories ---

    def repository(self, full_name: str) -> Repository:
        """Look a repository up."""
        what = f"look up {full_name}"
        return _read(records.repository, self._api.get(_repository(full_name), what), what)

    def repository_by_id(self, number: int) -> Repository:
        """Look a repository up by its number, which outlives every name."""
        what = f"look up repository {number}"
        return _read(records.repository, self._api.get(f"/repositories/{number}", what), what)

    def repositories(self, owner: str, topic: str = "") -> list[Repository]:
        """List the repositories of one owner, or those with a topic (of all owners when `owner` is empty)."""
        what = f"list the repositories of {owner or 'everybody'}"
        query = {"q": topic, "topic": "true"} if topic else {"q": f"{owner}/"}
        found = self._list(records.repository, "/repos/search", what, key="data", **query)
        mine = owner.lower()
        return [one for one in found if not owner or one.full_name.partition("/")[0].lower() == mine]

    def branches(self, full_name: str) -> dict[str, str]:
        """List the branches with the commit that each is at."""
        what, path = f"list the branches of {full_name}", f"{_repository(full_name)}/branches"
        return dict(self._list(lambda one: (str(one["name"]), str(one["commit"]["id"])), path, what))

    def permission(self, full_name: str, user: str) -> str:
        """Ask what somebody may do: none, read, write, admin or owner."""
        path = f"{_repository(full_name)}/collaborators/{quote(user, safe='')}/permission"
        what = f"ask what {user} may do in {full_name}"
        try:
            return _read(lambda answer: str(answer["permission"]), self._api.get(path, what), what)
        except NotFound:  # no such person
            return "none"

    # --- pull requests and commits ---

    def pulls(self, full_name: str) -> list[Pull]:
        """List the open pull requests."""
        what = f"list the pull requests of {full_name}"
        return list(self._list(records.pull, f"{_repository(full_name)}/pulls", what, state="open"))

    def pull(self, full_name: str, number: int) -> Pull:
        """Look one pull request up."""
        what = f"look up pull request {number} of {full_name}"
        return _read(records.pull, self._api.get(f"{_repository(full_name)}/pulls/{number}", what), what)

    def set_status(  # noqa: PLR0913, PLR0917  # what a status has
        self, full_name: str, commit: str, state: str, context: str, description: str, target_url: str
    ) -> None:
        """Set what one context says of a commit: pending, success, error, failure or warning."""
        body = {"state": state, "context": context, "description": description, "target_url": target_url}
        what = f"set {context} of {commit[:12]} in {full_name}"
        try:
            self._api.write("POST", f"{_repository(full_name)}/statuses/{commit}", what, body)
        except Unavailable as exc:
            if exc.retry_after is None and not self._has(full_name, commit):  # it answers 500 then
                raise Rejected("forge", what, "the repository does not have the commit any more") from exc
            raise

    def statuses(self, full_name: str, commit: str) -> dict[str, str]:
        """Give what each context says of a commit now."""
        what = f"read the statuses of {commit[:12]} in {full_name}"
        path = f"{_repository(full_name)}/commits/{commit}/status"
        return dict(
            self._list(lambda one: (str(one["context"]), str(one["status"])), path, what, key="statuses")
        )

    def _has(self, full_name: str, commit: str) -> bool:
        try:
            self._api.get(
                f"{_repository(full_name)}/git/commits/{commit}", f"look up {commit[:12]}", stat="false"
            )
        except NotFound:
            return False
        return True

    # --- comments ---

    def comments(self, full_name: str, number: int) -> list[Comment]:
        """List the comments of a pull request, oldest first."""
        what = f"list the comments of {full_name} #{number}"
        return list(self._list(records.comment, f"{_repository(full_name)}/issues/{number}/comments", what))

    def create_comment(self, full_name: str, number: int, body: str) -> int:
        """Write a comment; returns its id."""
        what, path = f"comment on {full_name} #{number}", f"{_repository(full_name)}/issues/{number}/comments"
        return _read(records.comment, self._api.write("POST", path, what, {"body": body}), what).id

    def edit_comment(self, full_name: str, comment_id: int, body: str) -> None:
        """Replace the text of a comment."""
        path = f"{_repository(full_name)}/issues/comments/{comment_id}"
        self._api.write("PATCH", path, f"edit comment {comment_id} in {full_name}", {"body": body})

    def react(self, full_name: str, comment_id: int, content: str) -> None:
        """Put a reaction, such as ``+1``, to a comment; one that is there stays."""
        path = f"{_repository(full_name)}/issues/comments/{comment_id}/reactions"
        self._api.write("POST", path, f"react to comment {comment_id} in {full_name}", {"content": content})

    # --- webhooks ---

    def hooks(self, full_name: str) -> list[Hook]:
        """List the webhooks of a repository, not those of its organisation."""
        return list(self._list(records.hook, *_hooks(full_name, "list the hooks of")))

    def create_hook(self, full_name: str, url: str, secret: str, events: Iterable[str]) -> Hook:
        """Make a webhook that delivers JSON. Nothing changes its secret later: the forge ignores that."""
        path, what = _hooks(full_name, "make a hook of")
        body = {
            "type": self.hook_type(),
            "active": True,
            "events": sorted(events),
            "config": {"url": url, "content_type": "json", "secret": secret},
        }
        return _read(records.hook, self._api.write("POST", path, what, body), what)

    def delete_hook(self, full_name: str, hook_id: int) -> None:
        """Remove a webhook; quiet when it is gone."""
        path, what = _hooks(full_name, f"remove hook {hook_id} of")
        try:
            self._api.write("DELETE", f"{path}/{hook_id}", what)
        except NotFound:
            return

    def test_hook(self, full_name: str, hook_id: int) -> None:
        """Let it deliver a push of the default branch as it is; not of an empty repository."""
        path, what = _hooks(full_name, f"test hook {hook_id} of")
        self._api.write("POST", f"{path}/{hook_id}/tests", what)

    def _list(
        self, read: Callable[[Any], T], path: str, what: str, key: str = "", **params: str
    ) -> Iterator[T]:
        return (_read(read, one, what) for one in self._api.pages(path, what, key, **params))


def _repository(full_name: str) -> str:
    owner, _, name = full_name.partition("/")
    if {owner, name} & {"", ".", ".."}:
        raise NotFound(f"{full_name!r} is not the name of a repository: give OWNER/NAME")
    return f"/repos/{quote(owner, safe='')}/{quote(name, safe='')}"


def _hooks(full_name: str, what: str) -> tuple[str, str]:
    return f"{_repository(full_name)}/hooks", f"{what} {full_name}"


def _read(read: Callable[[Any], T], answer: Any, what: str) -> T:
    """Take out of an answer what is needed."""
    try:
        return read(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise Unavailable("forge", what, "the answer is JSON, and not what a forge answers") from exc
