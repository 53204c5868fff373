"""What is wrong with the webhooks of a repository, and which of them have to go. Pure.

The forge never tells a secret, and does not change one: a hook that was touched may sign with another secret
than Kennel's. So nothing is mended in place: a new one is made, then what it replaces is removed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from kennel_core.forge_records import Hook

# What is asked for. `pull_request` would mean every kind of change to one, assignees and reviews included.
EVENTS = frozenset(
    {
        "push",
        "create",  # a branch that is renamed sends no push
        "delete",
        "pull_request_only",
        "pull_request_sync",
        "pull_request_label",
        "pull_request_comment",
    }
)
SHOWN = EVENTS - {"pull_request_only"} | {"pull_request"}  # as the forge calls them in its answers


@dataclass(frozen=True, slots=True)
class Drift:
    """What to do: `make` a hook, then `remove` these. `why` is a sentence; empty: all is right."""

    make: bool
    remove: tuple[Hook, ...]
    why: str


def drift(hooks: Iterable[Hook], url: str, hook_id: int | None) -> Drift:
    """Compare the hooks of a repository with the one there should be: `hook_id`, delivering to `url`.

    Kennel's are the one it noted and those that deliver to it. All others are somebody else's.
    """
    ours = [hook for hook in hooks if hook.id == hook_id or hook.url == url]
    noted = next((hook for hook in ours if hook.id == hook_id), None)
    others = tuple(hook for hook in ours if hook is not noted)
    wrong = _wrong(noted, url) if noted else ""
    if noted and not wrong:
        return Drift(make=False, remove=others, why="it was there more than once" if others else "")
    if noted:
        return Drift(make=True, remove=tuple(ours), why=wrong)
    if others:
        return Drift(make=True, remove=others, why="one that Kennel did not make was there")
    return Drift(make=True, remove=(), why="it was removed" if hook_id is not None else "there was none")


def _wrong(hook: Hook, url: str) -> str:
    if hook.url != url:
        return "it delivered to another address"
    if not hook.active:
        return "it was inactive"
    if hook.events != SHOWN:
        return "its events were others"
    if hook.content_type != "json":
        return "its content type was not application/json"
    if hook.branch_filter not in {"", "*"}:
        return "it was for some branches only"
    return ""
