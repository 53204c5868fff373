"""What the token of Kennel may do in OpenBao or Vault."""

from kennel_core.adapters.openbao import OpenBao
from kennel_core.adapters.openbao_login import SYSTEM
from kennel_core.errors import Unavailable


class OpenBaoRights(OpenBao):
    """A KV mount, and the rights on it."""

    def version(self) -> str:
        """Give the server's version, such as ``2.7.2``; nobody need log in for that.

        Raises:
            Unavailable: it is down, slow, or something else.

        Source: https://openbao.org/api-docs/system/seal-status/
        """
        response = self._ask("read the version", self._client.sys.read_seal_status)
        return str((response.body or {}).get("version") or "unknown")

    def capabilities(self, path: str) -> frozenset[str]:
        """Name what may be done with a path, the mount's own first part included: create, update, read...

        Raises:
            Unavailable, Rejected: as `OpenBao`; the policy may not allow asking.

        Source: https://openbao.org/api-docs/system/capabilities-self/
        """
        operation = f"ask for the rights on {path}"
        response = self._get(operation, lambda: self._client.sys.get_capabilities([path]))
        found = (response.body or {}).get("capabilities")
        if not isinstance(found, list):
            raise Unavailable(SYSTEM, operation, "the answer names no capabilities")
        return frozenset(map(str, found))
