"""Garage: scopes of the token, layout, and the S3 API."""

import time

from kennel_core import derived
from kennel_core.adapters.garage import Admin
from kennel_core.adapters.s3 import Bucket
from kennel_core.doctor.checks import Checks, failed, ok
from kennel_core.doctor.trial import provided
from kennel_core.provision.garage import KEY, Garage
from kennel_core.settings import Settings

SYSTEM = "garage"
LIST_S = 10.0


def examine(settings: Settings) -> Checks:
    """Look, and make and remove a bucket with its key. Raises what a pass would get."""
    missing = Admin(settings.garage_admin, settings.garage_token_file).missing_scopes()
    if missing:
        scopes = ", ".join(missing)
        remedy = f"`garage admin-token set --scope +{scopes.replace(', ', ',')} TOKEN`"
        yield failed(SYSTEM, f"the token lacks {scopes}", remedy)
        return
    yield ok(SYSTEM, f"admin API version 2 answers at {settings.garage_admin}; the token has every scope")
    if not settings.garage_s3:
        yield failed(SYSTEM, "there is no S3 API for services", "set KENNEL_GARAGE_S3")
        return
    maker = Garage(settings)
    with provided(maker) as (owner, notes):
        secret = derived.password(settings.secret_key_file, SYSTEM, notes.state[KEY])
        endpoint, region = settings.garage_s3, settings.garage_region
        bucket = Bucket(endpoint, region, maker.name(owner), notes.state[KEY], secret)
        bucket.empty(time.monotonic() + LIST_S)
    yield ok(SYSTEM, f"made, read at {settings.garage_s3} and removed a bucket with its key")
