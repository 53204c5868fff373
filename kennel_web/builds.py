"""Builds."""

from collections.abc import Iterator

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue

from kennel_core import builds, db
from kennel_core.follow import build_log_text
from kennel_web import stream

blueprint = Blueprint("builds", __name__)


@blueprint.get("/builds/<id:build_id>/log")
def show_log(build_id: int) -> ResponseReturnValue:
    """Show the log, phases set apart by lines; with ``?follow=true`` until the build ends."""

    def follow() -> Iterator[str]:
        with db.connection():
            builds.get(build_id)  # a build that does not exist is a 404, not an empty text
        return build_log_text(build_id)

    if stream.wanted():
        return stream.follow(follow)
    with db.connection():
        return Response(builds.full_log(build_id), content_type=stream.PLAIN)
