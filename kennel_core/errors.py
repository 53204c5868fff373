"""Everything Kennel raises on purpose.

KennelError
  ConfigError           Kennel is set up wrongly: refuse to start
  NotFound              a project, build or deployment that does not exist
  Conflict              the request does not fit the present state
  RequestError          the caller's fault; carries the HTTP status to answer
    BadSignature        the body was not signed with the project's secret
    BadPayload          the body is not an event Kennel understands
  ProjectError          the project's fault; ends the build, is never retried
    BuildFailed         a phase of the build failed
    Unhealthy           a service was started and did not come up
  Cancelled             somebody asked for the build to stop
    Overtaken           its ref is at another commit by now
  Fenced                another worker owns the build now: write nothing
  AdapterError          another system's fault
    Unavailable         no answer, or "later": the next pass may succeed
    Rejected            a clear "no": it will fail again until something changes

Anything else that escapes is a bug in Kennel and keeps its traceback.
"""


class KennelError(Exception):
    """Base of every error Kennel raises on purpose; `str()` is a sentence for a person."""


class ConfigError(KennelError):
    """Kennel is set up wrongly. The message names each variable or file and what to do."""


class NotFound(KennelError):
    """There is no such project, build or deployment."""


class Conflict(KennelError):
    """The thing exists, and its state does not allow what was asked."""


class RequestError(KennelError):
    """The caller's fault."""

    status = 400


class BadSignature(RequestError):
    """The body was not signed with the project's secret, or there is no such project."""

    status = 401

    def __init__(self) -> None:
        super().__init__("the signature does not match")


class BadPayload(RequestError):
    """The body is not an event Kennel understands.

    `status` is 400 (wrong content), 411 (no length), 413 (too large) or 415 (not JSON).
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ProjectError(KennelError):
    """The project's fault. `phase` is where, the message is what and what to do."""

    def __init__(self, phase: str, message: str) -> None:
        super().__init__(f"{phase}: {message}")
        self.phase = phase


class BuildFailed(ProjectError):
    """A phase of the build failed."""


class Unhealthy(ProjectError):
    """A service was started and did not come up; the message says what was seen."""


class Cancelled(KennelError):
    """Somebody asked for the build to stop."""


class Overtaken(Cancelled):
    """The ref is at another commit, `head`, than the one to be built."""

    def __init__(self, ref: str, head: str) -> None:
        super().__init__(f"{ref} is at {head[:12]} by now")
        self.head = head


class Fenced(KennelError):
    """The lease was lost: another worker may own the build, so nothing more may be written."""


class AdapterError(KennelError):
    """A system Kennel depends on did not do what it was asked."""

    def __init__(self, system: str, operation: str, detail: str) -> None:
        super().__init__(f"{system}: {operation}: {detail}")
        self.system = system
        self.operation = operation


class Unavailable(AdapterError):
    """No answer, a time-out, or "later": `retry_after` is in how many seconds, when the system said so."""

    def __init__(self, system: str, operation: str, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(system, operation, detail)
        self.retry_after = retry_after


class Rejected(AdapterError):
    """A clear "no"."""
