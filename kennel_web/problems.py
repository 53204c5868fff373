"""Errors as ``application/problem+json``, and headers that every answer has.

Source: RFC 9457.
"""

import json
from http import HTTPStatus

import structlog
from flask import Flask, Response
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from kennel_core.errors import (
    AdapterError,
    ConfigError,
    Conflict,
    KennelError,
    NotFound,
    RequestError,
)

RETRY_AFTER_S = 5

log = structlog.get_logger()


def answer_errors(app: Flask) -> None:
    """Make the application answer every error as a problem."""
    app.register_error_handler(KennelError, _kennel_error)
    app.register_error_handler(HTTPException, _http_error)
    app.after_request(_harden)


def problem(status: int, detail: str) -> Response:
    """Shape an error; `detail` is a sentence that may be shown to anybody."""
    title = HTTPStatus(status).phrase
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
    response = Response(body + "\n", status, mimetype="application/problem+json")
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def _kennel_error(error: KennelError) -> Response:
    match error:
        case RequestError():
            return problem(error.status, str(error))
        case NotFound():
            return problem(404, str(error))
        case Conflict():
            return problem(409, str(error))
        case AdapterError():
            log.warning("request failed", error=str(error))
            return problem(503, f"{error.system} is not available at present")
        case ConfigError():
            log.error("request failed", error=str(error))
            return problem(503, "Kennel is not set up; its log says what to do")
        case _:
            raise error


def _http_error(error: HTTPException) -> BaseResponse:
    if error.response is not None or error.code is None or error.code < 400:
        return error.get_response()
    response = problem(error.code, error.description or "")
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value  # such as Allow
    return response


def _harden(response: Response) -> Response:
    """Keep browsers from taking the text of a build for a page."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'; frame-ancestors 'none'"
    response.headers["Cache-Control"] = "no-store"
    return response
