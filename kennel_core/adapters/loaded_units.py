"""Units that are loaded: who made them, and by which systemd.

Source: org.freedesktop.systemd1(5), the properties of Manager and Unit.
"""

from jeepney import Properties

from kennel_core.adapters.systemd import Systemd
from kennel_core.adapters.unit_spec import MANAGER
from kennel_core.errors import NotFound


class LoadedUnits(Systemd):
    """A systemd manager, looked at. Raises what `Systemd` raises."""

    def version(self) -> str:
        """Give systemd's version, such as ``252.39-1~deb12u1``."""
        ((_signature, value),) = self._call("read Version", Properties(MANAGER).get("Version"))
        return str(value)

    def is_transient(self, name: str) -> bool:
        """Tell whether a unit was made by a call, not by a file; False when it is gone."""
        try:
            return bool(self._get(self._unit(name, "Unit"), "Transient"))
        except NotFound:
            return False
