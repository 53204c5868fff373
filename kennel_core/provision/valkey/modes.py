"""What is remembered of a ref's Valkey, whichever mode made it."""

from kennel_core.adapters.valkey import SYSTEM
from kennel_core.errors import Rejected
from kennel_core.provision import Memory

MODES = {"unit": "instance", "user": "acl", "db": "db"}  # by the key of what each remembers


def forget(memory: Memory, key: str, name: str) -> None:
    """Note that what one mode made is gone.

    Raises:
        Rejected: what another mode made is left, which only that mode can remove; so nothing is forgotten
            that is still there when the setting was changed meanwhile.
    """
    if memory.state.get(key) is not None:
        memory.note(**{key: None})
    left = [mode for other, mode in MODES.items() if memory.state.get(other) is not None]
    if left:
        detail = f"KENNEL_VALKEY={left[0]} made it something, too: set it so again until that is removed"
        raise Rejected(SYSTEM, f"remove {name}", detail)
