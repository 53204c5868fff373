"""HTTP: parse a request, call one core function, shape the answer."""

from flask import Flask
from werkzeug.routing import IntegerConverter, Map

from kennel_core.doorbell import Doorbell
from kennel_core.settings import Settings
from kennel_web import builds, caddy, deployments, health, metrics, problems, webhook
from kennel_web.context import Context


class _Id(IntegerConverter):
    """The id of a row: ``<id:name>``; what is too large for SQLite is no id."""

    def __init__(self, url_map: Map) -> None:
        super().__init__(url_map, min=1, max=2**63 - 1)


def create_app(settings: Settings, doorbell: Doorbell | None) -> Flask:
    """Make the application of the web process, or without a doorbell that for ``?follow=true``.

    Opens nothing, so that it can be made before a fork.
    """
    app = Flask(__name__, static_folder=None)
    app.url_map.converters["id"] = _Id
    app.extensions["kennel"] = Context(settings, follow=doorbell is None)
    metrics.measure(app)
    problems.answer_errors(app)
    for module in (builds, deployments, health):
        app.register_blueprint(module.blueprint)
    if doorbell is not None:
        app.extensions["kennel.doorbell"] = doorbell
        for module in (webhook, caddy, metrics):
            app.register_blueprint(module.blueprint)
    return app
