"""Deployments."""

from collections.abc import Iterator

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from kennel_core import db, runtime
from kennel_core.errors import RequestError
from kennel_web import stream
from kennel_web.context import context

LINES = 100

blueprint = Blueprint("deployments", __name__)


@blueprint.get("/deployments/<id:deployment_id>/logs")
def show_logs(deployment_id: int) -> ResponseReturnValue:
    """Show what the service wrote: the last `lines` lines, since `since`; on and on with ``?follow=true``."""

    def read() -> Iterator[str]:
        with db.connection():
            found = runtime.deployment_logs(
                deployment_id,
                context().settings,
                lines=_number("lines", LINES),
                since=request.args.get("since"),
                follow=stream.wanted(),
            )
        return (f"{line}\n" if line else "" for line in found)

    if stream.wanted():
        return stream.follow(read)
    if not context().follow and not runtime.may_show_logs(context().settings):
        return stream.elsewhere()
    return Response("".join(read()), content_type=stream.PLAIN)


@blueprint.get("/deployments/<id:deployment_id>/health")
def show_health(deployment_id: int) -> ResponseReturnValue:
    """Describe the unit of a service."""
    with db.connection():
        return runtime.deployment_health(deployment_id, context().settings)


def _number(name: str, default: int) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal()):
        raise RequestError(f"{name}: must be a whole number")
    return int(text[:10])
