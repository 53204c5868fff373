"""A user of a shared server for each ref, who may use the keys and channels of one prefix alone."""

from kennel_core import derived, naming
from kennel_core.adapters.valkey import SYSTEM, Valkey, digest
from kennel_core.errors import Rejected
from kennel_core.provision import Memory, Owner
from kennel_core.provision.valkey.addresses import addresses
from kennel_core.provision.valkey.modes import forget
from kennel_core.settings import Settings

# Refused besides @admin and @dangerous, because these show or change what is everybody's: names of keys,
# clients and channels; functions, which another user's calls would run; other databases, where no one looks.
# CLIENT TRACKING in broadcast mode tells of everybody's keys.
REFUSED = (
    "-scan", "-randomkey", "-dbsize", "-pubsub", "-client|tracking",
    "-function", "-script", "-select", "-move",
)  # fmt: skip
ALLOWED_AGAIN = ("+script|load", "+script|exists", "+info")
LEAST_VERSION = (7, 0)  # whose rules can name a subcommand that is refused


def rules(prefix: str) -> tuple[str, ...]:
    """Spell what a user may do."""
    names = (f"~{prefix}*", f"&{prefix}*")
    return ("resetkeys", "resetchannels", *names, "+@all", "-@admin", "-@dangerous", *REFUSED, *ALLOWED_AGAIN)


class Users:
    """Users, one for each owner; see `Provisioner`.

    A server without an aclfile forgets them when it ends, and `ensure` makes them anew. A user is ours when
    that is remembered, or when its password is the one that only Kennel can derive.
    """

    kind = "valkey"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def name(self, owner: Owner) -> str:
        """Name the user; its keys begin with the name and a colon."""
        return naming.resource(owner.project_id, owner.project, owner.ref)

    def parts(self, owner: Owner, memory: Memory) -> frozenset[str]:  # noqa: ARG002
        """Name the user."""
        return frozenset({f"user {self.name(owner)}"})

    def present(self) -> frozenset[str]:
        """Name every user that may log in."""
        with self._server() as server:
            return frozenset(f"user {name}" for name in server.users())

    def ensure(self, owner: Owner, memory: Memory) -> None:
        """Make the user, with these rules and this password alone."""
        name = self.name(owner)
        with self._server() as server:
            if server.version() < LEAST_VERSION:
                detail = "the server is too old: mode acl needs Valkey, or Redis 7.0 or newer"
                raise Rejected(SYSTEM, f"make user {name}", detail)
            there = server.password_digests(name)
            if there is not None and not self._is_ours(owner, memory, there):
                detail = "somebody else made a user of this name: delete it (ACL DELUSER) or rename it"
                raise Rejected(SYSTEM, f"make user {name}", detail)
            memory.note(user=name)
            server.set_user(name, self.password(owner), *rules(f"{name}:"))

    def variables(self, owner: Owner, memory: Memory, service: str) -> dict[str, str]:  # noqa: ARG002
        """Give the addresses with the login, and the prefix that every key and channel must have."""
        name = self.name(owner)
        return addresses(self._settings.valkey_url, 0, user=name, password=self.password(owner)) | {
            "VALKEY_PREFIX": f"{name}:"
        }

    def remove(self, owner: Owner, memory: Memory) -> None:
        """Shut the user out, and delete its keys and then itself."""
        name = self.name(owner)
        if memory.state.get("user") == name:  # else it was never made; what has its name is somebody else's
            with self._server() as server:
                if server.password_digests(name) is not None:
                    server.shut_out(name)
                server.delete_keys(f"{name}:")
                server.delete_user(name)
        forget(memory, "user", name)

    def password(self, owner: Owner) -> str:
        """Derive the user's password; only Kennel can."""
        return derived.password(self._settings.secret_key_file, "valkey", str(owner.project_id), owner.ref)

    def _is_ours(self, owner: Owner, memory: Memory, passwords: frozenset[str]) -> bool:
        return memory.state.get("user") == self.name(owner) or digest(self.password(owner)) in passwords

    def _server(self) -> Valkey:
        return Valkey(self._settings.valkey_url, self._settings.valkey_password_file)
