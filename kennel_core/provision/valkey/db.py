"""A numbered database of a shared server for each ref: for projects that trust each other."""

import threading
from collections.abc import Callable, Collection

from kennel_core import naming
from kennel_core.adapters.valkey import SYSTEM, Valkey, password
from kennel_core.errors import Rejected
from kennel_core.provision import Memory, Owner
from kennel_core.provision.valkey.addresses import addresses
from kennel_core.provision.valkey.modes import forget
from kennel_core.settings import Settings

_choosing = threading.Lock()  # from reading the numbers that are taken to noting another


class Databases:
    """Numbered databases; see `Provisioner`.

    The number is remembered in ``state["db"]`` and nowhere on the server. Database 0 is what a client uses
    that names none, so nobody gets it; nor does anybody get one with keys in it.
    """

    kind = "valkey"

    def __init__(self, settings: Settings, taken: Callable[[], Collection[int]]) -> None:
        self._settings = settings
        self._taken = taken

    def name(self, owner: Owner) -> str:
        """Name the owner; the database has only a number."""
        return naming.resource(owner.project_id, owner.project, owner.ref)

    def parts(self, owner: Owner, memory: Memory) -> frozenset[str]:
        """Name the database by its number; until it has one, by a name that is never present."""
        number = memory.state.get("db")
        return frozenset({f"database {f'of {self.name(owner)}' if number is None else number}"})

    def present(self) -> frozenset[str]:
        """Name every database that the server has."""
        with self._server() as server:
            return frozenset(f"database {number}" for number in range(server.databases()))

    def ensure(self, owner: Owner, memory: Memory) -> None:
        """Choose a number, once."""
        operation = f"choose a database for {self.name(owner)}"
        with self._server() as server:
            count = server.databases()
            number = memory.state.get("db")
            if number is None:
                with _choosing:
                    memory.note(db=self._free(server, count, operation))
            elif number >= count:
                detail = f"its number is {number}: the server's `databases` must be more than {count}"
                raise Rejected(SYSTEM, operation, detail)

    def variables(self, owner: Owner, memory: Memory, service: str) -> dict[str, str]:  # noqa: ARG002
        """Give the addresses, with the server's own password if it has one."""
        secret = password(self._settings.valkey_password_file, f"read the password for {self.name(owner)}")
        return addresses(self._settings.valkey_url, memory.state["db"], password=secret or "")

    def remove(self, owner: Owner, memory: Memory) -> None:
        """End the connections of the database and empty it; its number is free when the row is gone."""
        if memory.state.get("db") is not None:
            with self._server() as server:
                server.empty(memory.state["db"])
        forget(memory, "db", self.name(owner))

    def _free(self, server: Valkey, count: int, operation: str) -> int:
        taken = {0, *self._taken(), *server.used_databases()}
        for number in range(count):
            if number not in taken:
                return number
        detail = (
            f"all numbers from 1 to {count - 1} are taken: raise `databases` in the server's configuration, "
            "which needs a restart, or use KENNEL_VALKEY=instance"
        )
        raise Rejected(SYSTEM, operation, detail)

    def _server(self) -> Valkey:
        return Valkey(self._settings.valkey_url, self._settings.valkey_password_file)
