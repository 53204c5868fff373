"""What the forge sends."""

import time

import structlog
from flask import Blueprint, current_app, request
from flask.typing import ResponseReturnValue

from kennel_core import db, webhook
from kennel_core.errors import BadPayload, RequestError
from kennel_core.receive import receive
from kennel_web.context import context

BODY_MAX = 2 * 1024**2  # bytes; forges list only the newest commits of a push

blueprint = Blueprint("webhook", __name__)
log = structlog.get_logger()


@blueprint.post("/webhook")
def accept() -> ResponseReturnValue:
    """Accept an event: 202 with the build's id, or with the reason why nothing is done."""
    try:
        return _receive()
    except RequestError as exc:
        log.warning("delivery refused", status=exc.status, reason=str(exc))
        raise


def _receive() -> ResponseReturnValue:
    headers = {name: value for name in webhook.HEADERS if (value := request.headers.get(name)) is not None}
    body = _body()
    with db.connection():
        receipt = receive(
            headers, body, context().settings, current_app.extensions["kennel.doorbell"], time.time()
        )
    return dict(receipt.body), receipt.status


def _body() -> bytes:
    """Read the raw bytes, as they were signed."""
    if request.content_length is None:
        raise BadPayload("a Content-Length is required", 411)
    if request.content_length > BODY_MAX:
        raise BadPayload(f"the body has more than {BODY_MAX} bytes", 413)
    if request.mimetype != "application/json":
        raise BadPayload("the content type must be application/json", 415)
    return request.get_data(cache=False)
