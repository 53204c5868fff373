"""What Caddy asks before it gets a certificate for a name."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from kennel_core import db, deployments
from kennel_core.errors import NotFound, RequestError
from kennel_web.context import context

blueprint = Blueprint("caddy", __name__)


@blueprint.get("/internal/caddy/check-domain")
def check_domain() -> ResponseReturnValue:
    """Answer 200 for a name that is served here, exactly; 404 for any other, 400 for none.

    Source: https://caddyserver.com/docs/automatic-https#on-demand-tls
    """
    domain = request.args.get("domain", "").lower().removesuffix(".")
    if not domain:
        raise RequestError("domain: is missing")
    if domain != context().settings.domain:
        with db.connection():
            if deployments.by_host(domain) is None:
                raise NotFound("no deployment has this name")
    return "", 200
