"""OpenBao: logging in, reading, and writing the logins of projects."""

from kennel_core.adapters.openbao_rights import OpenBaoRights
from kennel_core.doctor.checks import Checks, ok, warning
from kennel_core.doctor.trial import PROJECT
from kennel_core.secrets import ROOT
from kennel_core.settings import Settings

SYSTEM = "openbao"


def examine(settings: Settings) -> Checks:
    """Log in, read a path that is not there, and ask what may be written. Raises what a pass would get."""
    openbao = OpenBaoRights(settings)
    path = f"{ROOT}/{PROJECT}/preview/OIDC_CLIENT_ID"
    yield ok(SYSTEM, f"version {openbao.version()} answers at {openbao.where.url}")
    openbao.read([path])
    yield ok(SYSTEM, f"it lets Kennel in, and read {openbao.mount}/{ROOT}/")
    if openbao.where.kv == 2:
        openbao.versions([path])
        yield ok(SYSTEM, "metadata may be read: a changed secret is noticed cheaply")
    else:
        remedy = "with KV version 2 only metadata is read to notice that a secret was changed"
        yield warning(SYSTEM, "the mount is of KV version 1", remedy)
    if settings.keycloak:
        yield from _logins(openbao, path)


def _logins(openbao: OpenBaoRights, path: str) -> Checks:
    """See whether a project's login can be stored for it, and removed again."""
    data, metadata = (f"{openbao.mount}/{kind}" for kind in ("data", "metadata"))
    if openbao.where.kv == 1:
        data = metadata = openbao.mount
    for what, where, needed in (
        ("stored", data, ("create", "update", "read")),
        ("removed", metadata, ("delete",)),
    ):
        may = openbao.capabilities(f"{where}/{path}")
        if may >= set(needed) or "root" in may:
            yield ok(SYSTEM, f"logins of projects may be {what}")
        else:
            rights = ", ".join(f'"{right}"' for right in needed)
            remedy = f'add to the policy: path "{where}/{ROOT}/+/+/OIDC_*" {{ capabilities = [{rights}] }}'
            yield warning(SYSTEM, f"logins of projects cannot be {what}", remedy)
