"""Metrics for Prometheus."""

from typing import Any

from flask import Blueprint, Flask, Response, current_app, request
from flask.typing import ResponseReturnValue
from prometheus_client import CollectorRegistry
from prometheus_flask_exporter import PrometheusMetrics

from kennel_core import db, metrics

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMEASURED = r"/(healthz|readyz|metrics)$"

blueprint = Blueprint("metrics", __name__)


class _HttpMetrics(PrometheusMetrics):  # type: ignore[misc]  # the exporter has no types
    def info(self, *_args: Any, **_labels: Any) -> None:
        """Leave out the exporter's own version: with several processes it is one series for each process."""


def measure(app: Flask) -> None:
    """Count the application's requests and their durations by rule; a path would be a series for each id."""
    registry = CollectorRegistry()
    app.before_request(_leave_out_odd_methods)
    _HttpMetrics(app, path=None, group_by="url_rule", excluded_paths=UNMEASURED, registry=registry)
    app.extensions["kennel.registry"] = registry


@blueprint.get("/metrics")
def show() -> ResponseReturnValue:
    """Show the measurements of every process, and the counts of the database."""
    with db.connection():
        text, content_type = metrics.exposition(
            request.headers.get("Accept", ""), current_app.extensions["kennel.registry"]
        )
    return Response(text, content_type=content_type)


def _leave_out_odd_methods() -> None:
    """Keep a client from making a series for each method it can think of."""
    if request.method not in METHODS:
        request.prom_exclude_all = True  # type: ignore[attr-defined]  # what the exporter looks for
