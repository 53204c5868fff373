"""The publish phase: outputs to a binary cache. It is a convenience, so its failure is a warning."""

from collections.abc import Iterable

from kennel_core import logs
from kennel_core.environment import is_pull_request
from kennel_core.errors import Unavailable
from kennel_core.pipeline import commands
from kennel_core.pipeline.job import Job, reason

PHASE = "publish"
TOKEN = "CACHIX_AUTH_TOKEN"  # noqa: S105  # the variable's name


def publish(job: Job, paths: Iterable[str]) -> None:
    """Push store paths, where a cache is configured.

    Only this command gets the token. What a pull request made is not published: its author may be anybody,
    and whoever uses the cache trusts what is in it.
    """
    cache = job.settings.cachix_cache
    if not cache:
        return
    if is_pull_request(job.build.ref):
        job.log.line(PHASE, "not published: only branches are")
        return
    try:
        token = _token(job)
        command = job.command(
            PHASE,
            commands.cachix_push(cache),
            job.settings.publish_timeout,
            secrets={TOKEN: token} if token else {},
            stdin="".join(f"{path}\n" for path in sorted(set(paths))).encode(),
        )
        done = job.run(command)
    except Unavailable as exc:
        if exc.system == "database":
            raise
        job.log.line(PHASE, f"warning: not published: {exc}")
        return
    if done.timed_out:
        job.log.line(PHASE, "warning: not published: it took longer than KENNEL_PUBLISH_TIMEOUT")
    elif done.exit_code != 0:
        job.log.line(PHASE, f"warning: not published: {reason(done)}")


def _token(job: Job) -> str:
    path = job.settings.cachix_token_file
    if path is None:
        return ""
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise Unavailable("disk", f"read {path}", str(exc)) from exc
    logs.register_secret(token)
    return token
