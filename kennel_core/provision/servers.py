"""The servers that resources, secrets and logins come from, as the settings name them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kennel_core import db, resources
from kennel_core.errors import AdapterError, ConfigError, Unavailable
from kennel_core.inputs import Inputs
from kennel_core.oidc import Client
from kennel_core.provision import SECRET, Memory, Owner, Provisioner
from kennel_core.settings import Settings

if TYPE_CHECKING:
    from kennel_core.provision.oidc import Oidc
    from kennel_core.secrets import Secrets

T = TypeVar("T")
R = TypeVar("R")

SPECIFICATION = "secretspec.toml"
AT_ONCE = 8

Listing = frozenset[str] | AdapterError  # what a server has, or why it does not say
Task = tuple[str, Owner, Memory]  # kind, whose, what is remembered of it


class Servers:
    """Every server that is configured. Made once in a process: it keeps logins and connections.

    Libraries are loaded when their server is first asked: most processes never do.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def provisioners(self) -> dict[str, Provisioner]:
        """Who makes what, by kind."""
        found: dict[str, Provisioner] = {}
        if self._settings.postgres:
            from kennel_core.provision.postgres import Postgres  # noqa: PLC0415

            found["postgres"] = Postgres(self._settings)
        if self._settings.valkey:
            from kennel_core.provision.valkey import valkey  # noqa: PLC0415

            found["valkey"] = valkey(self._settings, _numbers)
        if self._settings.garage_admin:
            from kennel_core.provision.garage import Garage  # noqa: PLC0415

            found["garage"] = Garage(self._settings)
        return found

    @cached_property
    def secrets(self) -> "Secrets":
        """Where secrets come from."""
        from kennel_core.secrets import Secrets  # noqa: PLC0415

        return Secrets(self._settings)

    @cached_property
    def oidc(self) -> "Oidc | None":
        """Who makes the clients of logins."""
        if not self._settings.keycloak:
            return None
        from kennel_core.provision.oidc import Oidc  # noqa: PLC0415

        return Oidc(self._settings)

    def present(self, kinds: Collection[str]) -> Callable[[], dict[str, Listing]]:
        """Begin to ask servers what there is, side by side; the result waits for their answers."""
        known = sorted(kind for kind in kinds if kind in self.provisioners)
        if not known:
            return dict
        pool = ThreadPoolExecutor(len(known))
        asked = {
            kind: pool.submit(_attempt, lambda kind: self.provisioners[kind].present(), kind)
            for kind in known
        }
        pool.shutdown(wait=False)
        return lambda: {kind: future.result() for kind, future in asked.items()}

    def each_ensure(self, tasks: Sequence[Task]) -> list[AdapterError | None]:
        """Make resources, side by side."""
        return each(lambda task: self._provisioner(task[0]).ensure(task[1], task[2]), tasks)

    def each_remove(self, tasks: Sequence[Task]) -> list[AdapterError | None]:
        """Remove resources, side by side."""
        return each(lambda task: self._provisioner(task[0]).remove(task[1], task[2]), tasks)

    def inputs(
        self,
        service: str,
        owner: Owner,
        directory: str,
        memories: Mapping[str, Memory],
        client: Client | None,
    ) -> Inputs:
        """Gather what one service is told; `directory` may hold a secretspec.toml, `client` is its logins'.

        Raises:
            BuildFailed: the specification is wrong, or secrets are missing.
            AdapterError: a server did not answer, or refused; but Keycloak's is noted as missing.
        """
        injected: dict[str, str] = {}
        for kind, memory in sorted(memories.items()):
            injected |= self._provisioner(kind).variables(owner, memory, service)
        missing: list[str] = []
        warnings: list[str] = []
        if client is not None:
            try:
                injected |= self._login(client)
            except AdapterError as exc:
                missing.append("oidc")
                warnings.append(f"starts without its logins: {exc}")
        file = Path(directory) / SPECIFICATION
        plain = {name: value for name, value in injected.items() if name not in SECRET}
        variables = {name: value for name, value in injected.items() if name in SECRET}
        found = Inputs(plain, variables, missing=tuple(missing), warnings=tuple(warnings))
        if not file.is_file():
            return found
        text = file.read_text(errors="replace")
        resolved = self.secrets.resolve(text, owner.project, owner.environment)
        return found.with_secrets(resolved)

    def directories(self, owner: Owner, kinds: Collection[str]) -> tuple[str, ...]:
        """Name the directories that services of the owner must see, and nobody else's."""
        valkey = self.provisioners.get("valkey") if "valkey" in kinds else None
        directory = getattr(valkey, "directory", None)  # with a server for each ref: of its socket
        return (str(directory(owner)),) if directory else ()

    def _login(self, client: Client) -> dict[str, str]:
        if self.oidc is None:
            raise Unavailable("keycloak", "log in", "it is not configured; set KENNEL_KEYCLOAK")
        secret = self.oidc.secret(client)
        if secret is None:
            raise Unavailable("keycloak", f"read the secret of {client.client_id}", "it is not made yet")
        from kennel_core.provision.oidc import variables  # noqa: PLC0415

        return variables(client, secret, self._settings)

    def _provisioner(self, kind: str) -> Provisioner:
        try:
            return self.provisioners[kind]
        except KeyError:
            raise Unavailable(kind, "connect", "it is not configured any more") from None


def each(action: Callable[[T], R], tasks: Sequence[T]) -> list[R | AdapterError]:
    """Do it for each, side by side; returns results, or errors in their places."""
    if not tasks:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(tasks))) as pool:
        return list(pool.map(lambda task: _attempt(action, task), tasks))


def _attempt(action: Callable[[T], R], task: T) -> R | AdapterError:
    try:
        return action(task)
    except AdapterError as exc:
        return exc
    except ConfigError as exc:  # a file that a setting names, say: mended while passes go on
        return Unavailable("settings", "use", str(exc))


def _numbers() -> set[int]:
    """Say which numbered databases are given away."""
    with db.connection():
        return {state["db"] for state in resources.states("valkey") if "db" in state}
