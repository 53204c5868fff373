"""Builds."""

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue

from kennel_core import builds, db
from kennel_core.follow import build_log_text
from kennel_web import stream

blueprint = Blueprint("builds", __name__)


@blueprint.get("/builds/<id:build_id>/log")
def show_log(build_id: int) -> ResponseReturnValue:
    """Show the log, phases set apart by lines; with ``?follow=true`` until the build ends."""
    with db.connection():
        if not stream.wanted():
            return Response(builds.full_log(build_id), content_type=stream.PLAIN)
        builds.get(build_id)
    return stream.follow(lambda: build_log_text(build_id))
