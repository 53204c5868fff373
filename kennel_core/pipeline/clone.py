"""The clone phase: the files of exactly one commit, and nothing of what a repository could run."""

import time
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from kennel_core import builds, overtaking
from kennel_core.adapters.forge import doorway
from kennel_core.adapters.process import Finished
from kennel_core.environment import git_ref, is_pull_request
from kennel_core.errors import BuildFailed, ConfigError, Overtaken
from kennel_core.logs import escape, redact, register_secret
from kennel_core.manifest import plain
from kennel_core.pipeline import commands
from kennel_core.pipeline.job import Job, failed
from kennel_core.settings import Settings

PHASE = "clone"
HISTORY = 100  # commits of a pull request that are looked through for an older one


def clone(job: Job) -> None:
    """Fetch the commit by its id, and put its files into the job's source directory.

    A server that does not hand out a commit by its id is asked for the whole ref. A push that is told late or
    again must not roll a ref back, so a branch has to be at the commit; the forge may be slower to move the
    ref of a pull request, which has to be no successor of it.

    Raises:
        Overtaken: the ref is at another commit by now.
        BuildFailed: the repository cannot be reached, or does not have the commit any more.
    """
    commit, ref, url = job.build.commit, git_ref(job.build.ref), job.build.project.clone_url
    protocol = _checked(commit, ref, url, allow_file=job.settings.git_allow_file)
    remote = commands.git_remote(url, _access(url, job.settings))
    deadline = time.monotonic() + job.settings.clone_timeout

    def git(argv: list[str], *, capture: bool = False) -> Finished:
        left = max(deadline - time.monotonic(), 0.1)
        return job.run(job.command(PHASE, argv, left, protocol=protocol, secrets=remote, capture=capture))

    def must(argv: list[str], what: str) -> None:
        done = git(argv)
        if done.exit_code != 0 or done.timed_out:
            raise failed(done, what, "see the lines above", "KENNEL_CLONE_TIMEOUT")

    job.log.line(PHASE, escape(f"fetching {commit} of {ref} from {url}"))
    must(commands.git_init(job.source, commit), "making a repository")
    head = "" if job.build.error == builds.GONE_FROM_STORE else _head(git, ref)
    if _has_moved(job, head):
        raise Overtaken(job.build.ref, head)
    done = git(commands.git_fetch(job.source, commit, depth=1))
    if done.exit_code != 0 and not done.timed_out:
        job.log.line(PHASE, f"the server does not give the commit by its id; fetching {ref}")
        done = git(commands.git_fetch(job.source, ref, depth=None))
    if done.exit_code != 0 or done.timed_out:
        if "couldn't find remote ref" in "\n".join(done.tail):
            raise BuildFailed(PHASE, f"{ref} is gone from the repository; push it again to build it")
        raise failed(done, f"fetching from {url}", _advice(done), "KENNEL_CLONE_TIMEOUT")
    if git(commands.git_has(job.source, commit)).exit_code != 0:
        raise BuildFailed(
            PHASE,
            f"commit {commit[:12]} is not in {ref} any more, so it was overwritten; push again to build",
        )
    if _has_successor(git, job, head):
        raise Overtaken(job.build.ref, head)
    must(commands.git_checkout(job.source, commit), f"checking out {commit[:12]}")


def _head(git: Callable[..., Finished], ref: str) -> str:
    """Ask which commit a ref is at; empty when there is no answer, which fetching will say better."""
    done = git(commands.git_head(ref), capture=True)
    if done.exit_code == 0 and not done.timed_out:
        for commit, _, name in (line.partition("\t") for line in done.stdout.splitlines()):
            if name == ref and commands.is_commit(commit):
                return commit
    return ""


def _has_moved(job: Job, head: str) -> bool:
    """Tell whether a branch is at another commit, which was not told with the wish not to be built."""
    if head in ("", job.build.commit) or is_pull_request(job.build.ref):
        return False
    return not overtaking.is_passed_over(job.build, head)


def _has_successor(git: Callable[..., Finished], job: Job, head: str) -> bool:
    """Tell whether the commit of a pull request, which is fetched, comes before its head."""
    if head in ("", job.build.commit) or not is_pull_request(job.build.ref):
        return False
    git(commands.git_fetch(job.source, head, depth=HISTORY))
    return git(commands.git_is_ancestor(job.source, job.build.commit, head)).exit_code == 0


def _advice(done: Finished) -> str:
    if any("could not read Username" in line or "Authentication failed" in line for line in done.tail):
        return "it is private, or gone: KENNEL_FORGE_TOKEN_FILE must name a token that may read it"
    return "is the forge up and the clone URL right?"


def _access(url: str, settings: Settings) -> dict[str, str]:
    """Give what lets git into a private repository of the forge; nothing for every other host.

    That, and a password in the URL, is kept out of the log however it is written.
    """
    if password := urlsplit(url).password:
        register_secret(unquote(password))
    try:
        token = doorway.token_for(settings, url)
    except ConfigError as exc:
        raise BuildFailed(PHASE, str(exc)) from exc
    if token:
        register_secret(token)
    return commands.git_access(settings.forge_url, token)


def _checked(commit: str, ref: str, url: str, *, allow_file: bool) -> str:
    """Return the transport to use, when nothing here can be anything but a commit, a ref and a URL."""
    protocol = commands.protocol(url, allow_file=allow_file)
    if protocol is None:
        shown = plain(redact(url))
        raise BuildFailed(PHASE, f"{shown} is not a clone URL that Kennel uses; register an https:// one")
    if not commands.is_commit(commit):
        raise BuildFailed(PHASE, f"{plain(commit)} is not a commit id; push again")
    if not commands.is_git_ref(ref):
        raise BuildFailed(PHASE, f"{plain(ref)} is not a name that git accepts; rename the branch")
    return protocol
