"""What the developer sees on the forge, and a stranger's pull request: chapters that need a forge."""

import json
import re
import shutil

from story import HOME, chapter, check, console, say
from story.browser import Browser
from story.developer import ForgeProject, number
from story.forge import OWNER, STRANGER
from story.stack import kennel, run, wait_until

GIFT = "gift"


def on_the_forge(project: ForgeProject, ref: str, browser: Browser) -> None:
    chapter("What the developer sees on the forge")
    forge, name = project.forge, project.name
    for what, commit, wanted in (
        ("the push to main that failed", f"{project.commit}~1", "failure"),
        (f"the pull request {name}#{number(ref)}", project.commit, "success"),
    ):
        _statuses(project, what, project.git("rev-parse", commit), wanted)
    hosts = [row["hosts"][0] for row in project.deployments(ref)]
    short = project.commit[:10]

    def complete() -> bool:
        said = forge.comment(name, number(ref))
        return short in said and all(host in said for host in hosts)

    wait_until("waiting for the comment on the pull request", complete)
    _quote(forge.comment(name, number(ref)))
    check(all(browser.get(host)[0] == 200 for host in hosts), "each address in it answers")


def closed(project: ForgeProject, ref: str) -> None:
    """Show what the comment says when all is gone."""

    def complete() -> bool:
        return "torn down" in project.forge.comment(project.name, number(ref))

    wait_until("waiting for the comment to say so", complete)
    _quote(project.forge.comment(project.name, number(ref)))


def stranger(project: ForgeProject, browser: Browser) -> None:
    chapter("A stranger's pull request waits until somebody approves it")
    forge, name = project.forge, project.name
    commit = _push_to_a_fork(project)
    pull = forge.open(name, f"{STRANGER}:{GIFT}", "Accept my gift", STRANGER)
    ref = f"pr-{pull}"
    wait_until(
        "waiting for the comment on it", lambda: f"/kennel approve {commit[:10]}" in forge.comment(name, pull)
    )
    _quote(forge.comment(name, pull))
    _statuses(project, f"the pull request {name}#{pull}", commit, "pending")
    ignored = forge.say(name, pull, "/kennel approve", STRANGER)
    say(f"{STRANGER} comments: /kennel approve")
    wait_until("waiting until that is refused", lambda: "refused" in _outcomes(f"{name} {ref}"))
    check(not project.builds(ref), "nothing of it is built")
    approval = forge.say(name, pull, "/kennel approve", OWNER)
    say(f"{OWNER} comments: /kennel approve")
    status, error = project.end_of(project.build_of(ref, commit))
    check(status == "done", f"it is built and live now {error}".strip())
    check(len(project.builds(ref)) == 1, "it was built once")
    wait_until("waiting for the answer on the forge", lambda: forge.reactions(name, approval) == ["+1"])
    check(not forge.reactions(name, ignored), f"👍 for {OWNER}, no answer for {STRANGER}")
    host = project.host("api", ref)
    check('"version": "5, a gift"' in browser.get(host)[1], f"{host} answers with what {STRANGER} wrote")
    _statuses(project, f"the pull request {name}#{pull}", commit, "success")
    project.close(ref)
    wait_until("waiting until it is gone", lambda: not project.deployments(ref))
    closed(project, ref)


def _outcomes(target: str) -> set[str]:
    """Give what came of the commands for a pull request, a word each."""
    entries = json.loads(kennel("audit-log", "--json"))
    return {entry["outcome"].partition(":")[0] for entry in entries if entry["target"] == target}


def _push_to_a_fork(project: ForgeProject) -> str:
    """Let the stranger fork, change something and push it there; gives the commit."""
    fork = project.forge.fork(project.name)
    tree = HOME / STRANGER
    shutil.copytree(project.tree, tree)
    (tree / "VERSION").write_text("5, a gift\n")
    git = ("git", "-c", "user.name=Mallory", "-c", "user.email=mallory@example.org", "-c", "http.proxy=")
    run(*git, "-c", "commit.gpgsign=false", "commit", "--quiet", "--all", "--message", "A gift", cwd=tree)
    run(*git, "push", "--quiet", project.forge.clone_url(fork, STRANGER), f"HEAD:refs/heads/{GIFT}", cwd=tree)
    say(f"{STRANGER} forks {project.name} and pushes to {fork}")
    return run("git", "rev-parse", "HEAD", cwd=tree)


def _statuses(project: ForgeProject, what: str, commit: str, wanted: str) -> None:
    """Wait until the statuses of a commit, taken together, are as wanted, and show them."""
    found: dict[str, tuple[str, str]] = {}

    def together() -> str:
        found.update(project.forge.statuses(project.name, commit))
        states = {state for state, _words in found.values()}
        return next((state for state in ("pending", "failure", "success") if state in states), "none")

    wait_until(f"waiting for the statuses of {commit[:10]}", lambda: together() == wanted)
    for context, (state, words) in sorted(found.items()):
        say(f"{state:<8} {context:<24} {words}")
    check(found, f"{what}: {wanted}")


def _quote(comment: str) -> None:
    """Show a comment, but for its markers."""
    text = re.sub(r"<!--.*?-->\s*", "", comment).strip()
    for line in text.splitlines():
        console.print(f"  │ {line}", markup=False)
