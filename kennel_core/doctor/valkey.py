"""Valkey: the program or the shared server, rights, and how many databases are left."""

from kennel_core.adapters.valkey import Valkey
from kennel_core.doctor.checks import Checks, ok, warning
from kennel_core.doctor.trial import provided
from kennel_core.provision.valkey import valkey
from kennel_core.provision.valkey.acl import Users
from kennel_core.provision.valkey.db import Databases
from kennel_core.settings import Settings

SYSTEM = "valkey"
FEW = 4  # databases


def examine(settings: Settings) -> Checks:
    """Make and remove what a ref gets. Raises what a pass would get."""
    maker = valkey(settings, set)
    if not isinstance(maker, Users | Databases):
        with provided(maker):
            pass
        yield ok(SYSTEM, "started and removed a server of its own, as a unit that answers on its socket")
        return
    with Valkey(settings.valkey_url, settings.valkey_password_file) as server:
        major, minor = server.version()
        yield ok(SYSTEM, f"a server compatible with Redis {major}.{minor} answers at {server.url}")
        with provided(maker):
            pass
        if isinstance(maker, Users):
            yield ok(SYSTEM, "made and deleted a user with a prefix of its own")
            return
        count, used = server.databases(), len(server.used_databases() | {0})
    what = f"{used} of {count} numbered databases are in use"
    remedy = "raise `databases` in the server's configuration, which needs a restart, or use another mode"
    yield warning(SYSTEM, what, remedy) if count - used < FEW else ok(SYSTEM, what)
