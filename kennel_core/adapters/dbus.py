"""A connection to D-Bus on which nothing waits for ever, and D-Bus errors as Kennel's."""

import os

from jeepney import DBusErrorResponse, Message
from jeepney.bus import get_bus
from jeepney.io.blocking import DBusConnection, prep_socket

from kennel_core.errors import (
    AdapterError,
    ConfigError,
    Conflict,
    KennelError,
    NotFound,
    Rejected,
    Unavailable,
)

CALL_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 2.0

_LATER = frozenset(
    {
        "org.freedesktop.DBus.Error.Disconnected",
        "org.freedesktop.DBus.Error.LimitsExceeded",
        "org.freedesktop.DBus.Error.NameHasNoOwner",
        "org.freedesktop.DBus.Error.NoReply",
        "org.freedesktop.DBus.Error.ServiceUnknown",
        "org.freedesktop.DBus.Error.TimedOut",
        "org.freedesktop.DBus.Error.Timeout",
    }
)


class _Connection(DBusConnection):  # type: ignore[misc]  # jeepney carries no types
    """jeepney waits for ever for the reply to its first call, Hello."""

    def send_and_get_reply(self, message: Message, *, timeout: float | None = None) -> Message:
        return super().send_and_get_reply(message, timeout=CALL_TIMEOUT_S if timeout is None else timeout)


def open_connection(path: str) -> DBusConnection:
    """Connect to the bus behind a Unix socket.

    Raises:
        OSError: nobody listens or answers there; TimeoutError among them.
        AuthenticationError: the bus does not let this user in.
    """
    sock = prep_socket(path, timeout=CONNECT_TIMEOUT_S)
    try:
        sock.settimeout(CALL_TIMEOUT_S)  # jeepney's own time-outs are those of receiving
        return _Connection(sock)
    except DBusErrorResponse as exc:
        sock.close()
        raise ConnectionRefusedError(str(exc)) from exc
    except OSError:
        sock.close()
        raise


def socket_path(bus: str) -> str:
    """Find the Unix socket of "system", "session" or a D-Bus address.

    Raises:
        ConfigError: it is no address, or not one of a Unix socket.
    """
    if bus == "session" and "DBUS_SESSION_BUS_ADDRESS" not in os.environ:
        runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        return f"{runtime}/bus"
    try:
        path: str = get_bus({"system": "SYSTEM", "session": "SESSION"}.get(bus, bus))
    except (RuntimeError, ValueError) as exc:
        raise ConfigError(f"{bus!r} is not a D-Bus address: use system, session or unix:path=...") from exc
    return path


def typed_error(operation: str, error: DBusErrorResponse) -> KennelError:
    """Turn systemd's or the bus's refusal into NotFound, Conflict, Unavailable or Rejected."""
    detail = str(error.data[0]) if error.data else error.name
    kind: type[AdapterError] = Unavailable if error.name in _LATER else Rejected
    match error.name.rpartition(".")[2]:
        case "NoSuchUnit":
            return NotFound(detail)
        case "UnitExists":
            return Conflict(detail)
        case "AccessDenied" | "InteractiveAuthorizationRequired":
            detail += "; the reconciler must run as root or be allowed org.freedesktop.systemd1.manage-units"
    return kind("systemd", operation, detail)
