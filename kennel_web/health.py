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
    """Answer 200 when every neighbour answers, else 503; the body has a sentence for each that does not."""
    problems = readiness.checks(context().settings)
    bad = [name for name, problem in problems.items() if problem]
    checks = {name: {"ok": not problem, "detail": problem or ""} for name, problem in problems.items()}
    body = {"status": f"not ready: {', '.join(bad)}" if bad else "ready", "checks": checks}
    return body, 503 if bad else 200
