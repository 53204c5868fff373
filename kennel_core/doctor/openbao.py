"""OpenBao: logging in, reading, and writing the logins of projects."""

from kennel_core.adapters.openbao_rights import OpenBaoRights
from kennel_core.doctor.checks import Checks, ok, warning
from kennel_core.doctor.trial import PROJECT
from kennel_core.secrets import ROOT
from kennel_core.settings import Settings

SYSTEM = "openbao"
WRITE = {"create", "update", "root", "sudo"}


def examine(settings: Settings) -> Checks:
    """Log in, read a path that is not there, and ask what may be written. Raises what a pass would get."""
    openbao = OpenBaoRights(settings)
    path = f"{ROOT}/{PROJECT}/preview/OIDC_CLIENT_ID"
    openbao.read([path])
    yield ok(SYSTEM, f"{openbao.where.url} lets Kennel in and read {openbao.mount}/{ROOT}/")
    if openbao.where.kv == 2:
        openbao.versions([path])
        yield ok(SYSTEM, "metadata may be read: a changed secret is noticed cheaply")
    else:
        remedy = "with KV version 2 only metadata is read to notice that a secret was changed"
        yield warning(SYSTEM, "the mount is of KV version 1", remedy)
    if settings.keycloak:
        where = f"{openbao.mount}/data" if openbao.where.kv == 2 else openbao.mount
        may = openbao.capabilities(f"{where}/{path}")
        if may & WRITE == {"create", "update"} or may & {"root"}:
            yield ok(SYSTEM, "logins of projects may be stored")
        else:
            remedy = f'add path "{where}/{ROOT}/+/+/OIDC_*" {{ capabilities = ["create", "update", "read"] }}'
            yield warning(SYSTEM, "logins of projects cannot be stored for them", f"{remedy} to the policy")
