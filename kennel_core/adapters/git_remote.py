"""Ask a repository for its refs, without a clone."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from kennel_core.errors import Rejected, Unavailable

TIMEOUT_S = 30.0


def listed(argv: Sequence[str], env: Mapping[str, str], shown: str, timeout: float = TIMEOUT_S) -> str:
    """Run a ``git ls-remote`` and return what it prints; `shown` is the URL without secrets.

    May be used by several threads.

    Raises:
        Unavailable: git is not installed, or there was no answer within `timeout` seconds.
        Rejected: git ended with an error.
    """
    what = f"ls-remote {shown}"
    try:
        process = subprocess.Popen(
            argv,
            cwd="/",
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # git's helpers, which hold the pipes, are ended with it
        )
    except OSError as exc:
        raise Unavailable("git", what, exc.strerror or str(exc)) from exc
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as exc:
            raise Unavailable("git", what, f"no answer within {timeout:g} s; is the forge up?") from exc
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        lines = err.decode("utf-8", "replace").strip().splitlines()
        fatal = [line for line in lines if line.startswith(("fatal: ", "error: ", "remote: "))]
        raise Rejected("git", what, [f"exit status {process.returncode}", *lines[-1:], *fatal[:1]][-1])
    return out.decode("utf-8", "surrogateescape")
