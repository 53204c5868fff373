"""A cache for each ref: a server of its own, a user of a shared server, or a numbered database of one."""

from collections.abc import Callable, Collection

from kennel_core.errors import ConfigError
from kennel_core.provision import Provisioner
from kennel_core.provision.valkey.acl import Users
from kennel_core.provision.valkey.db import Databases
from kennel_core.provision.valkey.instance import Instances
from kennel_core.settings import Settings


def valkey(settings: Settings, taken: Callable[[], Collection[int]]) -> Provisioner:
    """Choose by ``settings.valkey``, which must not be empty.

    `taken` gives the numbers (``state["db"]``) that the rows of all owners have; for mode `db` alone.

    Raises:
        ConfigError: the mode needs a shared server, and none is named.
    """
    if settings.valkey == "instance":
        return Instances(settings)
    if not settings.valkey_url:
        raise ConfigError(
            f"KENNEL_VALKEY_URL: must name the shared server of KENNEL_VALKEY={settings.valkey}"
        )
    if settings.valkey == "acl":
        return Users(settings)
    return Databases(settings, taken)
