"""Whether Kennel lives, and whether it can work."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from kennel_core import readiness
from kennel_web.context import context

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> ResponseReturnValue:
    """Answer 200 while the process lives; asks nobody."""
    return {"status": "ok"}


@blueprint.get("/readyz")
def readyz() -> ResponseReturnValue:
    """Answer 200 when every neighbour answers that Kennel cannot work without, else 503.

    The body has a sentence for each that does not answer.
    """
    problems = readiness.checks(context().settings)
    silent = [name for name, problem in problems.items() if problem]
    bad = [name for name in silent if name not in readiness.WORKS_WITHOUT]
    word = "not ready" if bad else "degraded"
    checks = {name: {"ok": not problem, "detail": problem or ""} for name, problem in problems.items()}
    body = {"status": f"{word}: {', '.join(silent)}" if silent else "ready", "checks": checks}
    return body, 503 if bad else 200
