"""The systemd manager, over D-Bus."""

import dataclasses
import re
import signal
import time
from collections import deque
from types import TracebackType
from typing import Any, Self

from jeepney import (
    DBusAddress,
    DBusErrorResponse,
    MatchRule,
    Message,
    Properties,
    message_bus,
    new_method_call,
)
from jeepney.auth import AuthenticationError
from jeepney.io.blocking import DBusConnection
from jeepney.wrappers import unwrap_msg

from kennel_core.adapters.dbus import open_connection, socket_path, typed_error
from kennel_core.adapters.unit_spec import (
    ACCOUNTING,
    MANAGER,
    SLICE,
    SYSTEMD1,
    UnitSpec,
    accounting,
    start_message,
)
from kennel_core.effects import Effect
from kennel_core.errors import Conflict, NotFound, Rejected, Unavailable

RUNNING = frozenset({"active", "activating", "reloading"})

# What the exit statuses mean that systemd itself gives before the program runs: systemd.exec(5).
SETUP_FAILURES = {
    200: "its working directory {directory} cannot be entered",
    203: "{program} cannot be executed: it is not there, not executable, or its interpreter is missing",
    217: "its user {user} could not be made",
    218: "its capabilities could not be dropped",
    226: "its sandbox could not be set up: is one of the directories it is to see not there?",
    228: "its system call filter could not be set up",
}

ENDED_WELL = "the program ended at once, with success; a service has to go on running"


@dataclasses.dataclass(frozen=True, slots=True)
class UnitStatus:
    """What systemd says of one unit; `active_enter_usec` is in microseconds since the epoch, 0 if never."""

    active_state: str
    sub_state: str
    active_enter_usec: int
    n_restarts: int
    result: str
    exec_main_status: int


class Systemd:
    """One systemd manager.

    `bus` is "system", "session" (the user's own manager) or a D-Bus address. One connection is
    opened by the first call, kept, and dropped when it fails, so that a later call opens another.
    An object belongs to one thread and to one process.

    Every method raises:
        Unavailable: the bus or systemd is down or slow.
        Rejected: systemd said no, or `name` is not one that Kennel gives.
    """

    def __init__(self, bus: str) -> None:
        self._path = socket_path(bus)
        self._connection: DBusConnection | None = None
        self._subscribed = False
        self.sandboxed = bus != "session"  # a user's manager can neither make users nor hide directories

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._subscribed = None, False

    def units(self) -> dict[str, str]:
        """Give the ActiveState of every loaded ``kennel-*.service`` by name, in one call."""
        message = new_method_call(MANAGER, "ListUnitsByPatterns", "asas", ([], ["kennel-*.service"]))
        (rows,) = self._call("list units", message)
        return {row[0]: row[3] for row in rows}

    def start(self, spec: UnitSpec, timeout: float) -> None:
        """Run a service and wait, at most `timeout` seconds, until its program has been executed.

        A unit of that name that runs already is left alone; one that failed is started anew.

        Raises:
            Rejected: it could not be executed or ended at once; says why. Nothing is left running.
        """
        operation = f"start {_checked(spec.name)}"
        message = start_message(spec if self.sandboxed else dataclasses.replace(spec, sandbox=False))
        try:
            result = self._job(operation, message, timeout)
        except Conflict:
            if self._runs(spec.name):
                return
            self.stop(spec.name, timeout)
            try:
                result = self._job(operation, message, timeout)
            except Conflict as exc:
                raise Unavailable("systemd", operation, "the unit of that name has not gone yet") from exc
        reason = self._failure(spec, result)
        if reason:
            self.stop(spec.name, timeout)
            raise Rejected("systemd", operation, reason)

    def stop(self, name: str, timeout: float) -> None:
        """Stop a unit, wait at most `timeout` seconds until it has ended, and forget that it failed.

        A unit that is not there is no error.
        """
        operation = f"stop {_checked(name)}"
        try:
            message = new_method_call(MANAGER, "StopUnit", "ss", (name, "replace"))
            result = self._job(operation, message, timeout)
            if result != "done":
                raise Rejected("systemd", operation, f"the job ended with {result!r}")
            with Effect("reset unit"):
                self._call(operation, new_method_call(MANAGER, "ResetFailedUnit", "s", (name,)))
        except NotFound:
            return

    def status(self, name: str) -> UnitStatus:
        """Ask for the state of one unit.

        Raises:
            NotFound: no such unit is loaded; one that ended well is unloaded at once.
        """
        unit, service = self._unit(name, "Unit"), self._unit(name, "Service")
        return UnitStatus(
            active_state=self._get(unit, "ActiveState"),
            sub_state=self._get(unit, "SubState"),
            active_enter_usec=self._get(unit, "ActiveEnterTimestamp"),
            n_restarts=self._get(service, "NRestarts"),
            result=self._get(service, "Result"),
            exec_main_status=self._get(service, "ExecMainStatus"),
        )

    def _failure(self, spec: UnitSpec, result: str) -> str | None:
        """Say why a start failed; None when the service runs."""
        try:
            status = self.status(spec.name)
        except NotFound:
            return ENDED_WELL
        restarting = status.sub_state == "auto-restart"
        if result == "done" and status.active_state in RUNNING and not restarting:
            return None
        return explain(status, spec)

    def _runs(self, name: str) -> bool:
        """Tell whether a unit runs or is about to."""
        try:
            unit = self._unit(name, "Unit")
            state = self._get(unit, "ActiveState")
            job, _path = self._get(unit, "Job")
        except NotFound:
            return False
        return state in RUNNING or (state != "deactivating" and job != 0)  # somebody else's start waits

    def _unit(self, name: str, interface: str) -> DBusAddress:
        message = new_method_call(MANAGER, "GetUnit", "s", (_checked(name),))
        (path,) = self._call(f"find {name}", message)
        return DBusAddress(path, SYSTEMD1, f"{SYSTEMD1}.{interface}")

    def _get(self, address: DBusAddress, name: str) -> Any:
        ((_signature, value),) = self._call(f"read {name}", Properties(address).get(name))
        return value

    def _job(self, operation: str, message: Message, timeout: float) -> str:
        """Make a call that starts a job, and wait for the job's result."""
        deadline = time.monotonic() + timeout
        self._subscribe()
        connection = self._connect(operation)
        # no sender: messages carry the unique name, so this filter would never match
        removed = MatchRule(type="signal", interface=MANAGER.interface, member="JobRemoved")
        with connection.filter(removed, queue=deque()) as queue:
            with Effect("systemd job"):
                (job,) = self._call(operation, message)
            while True:
                try:
                    left = max(0.0, deadline - time.monotonic())
                    _id, path, _name, result = connection.recv_until_filtered(queue, timeout=left).body
                except TimeoutError as exc:
                    raise Unavailable("systemd", operation, f"not done within {timeout:g} s") from exc
                except OSError as exc:
                    raise self._lost(operation, exc) from exc
                if path == job:
                    return str(result)

    def _subscribe(self) -> None:
        """Have systemd tell the end of jobs on this connection, and see that the slice keeps accounts."""
        if self._subscribed:
            return
        rule = MatchRule(type="signal", sender=SYSTEMD1, interface=MANAGER.interface, member="JobRemoved")
        self._call("subscribe", message_bus.AddMatch(rule))
        self._call("subscribe", new_method_call(MANAGER, "Subscribe"))
        (path,) = self._call("load slice", new_method_call(MANAGER, "LoadUnit", "s", (SLICE,)))
        kept = DBusAddress(path, SYSTEMD1, f"{SYSTEMD1}.Slice")
        if not all(self._get(kept, name) for name in ACCOUNTING):
            body = (SLICE, True, accounting())
            with Effect("set up slice"):
                self._call("set up slice", new_method_call(MANAGER, "SetUnitProperties", "sba(sv)", body))
        self._subscribed = True

    def _call(self, operation: str, message: Message) -> Any:
        connection = self._connect(operation)
        try:
            return unwrap_msg(connection.send_and_get_reply(message))
        except DBusErrorResponse as exc:
            raise typed_error(operation, exc) from exc
        except OSError as exc:
            raise self._lost(operation, exc) from exc

    def _connect(self, operation: str) -> DBusConnection:
        if self._connection is None:
            try:
                self._connection = open_connection(self._path)
            except (OSError, AuthenticationError) as exc:
                raise self._lost(operation, exc) from exc
        return self._connection

    def _lost(self, operation: str, error: Exception) -> Unavailable:
        self.close()
        detail = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        return Unavailable("systemd", operation, f"{detail} (D-Bus at {self._path})")


def explain(status: UnitStatus, spec: UnitSpec) -> str:
    """Say in one sentence why a service does not run."""
    code, result = status.exec_main_status, status.result
    if result == "exit-code" and code in SETUP_FAILURES:
        names = {"program": spec.argv[0], "directory": spec.working_directory, "user": spec.user}
        return f"{SETUP_FAILURES[code].format(**names)} (result {result}, status {code})"
    if result in {"signal", "core-dump", "oom-kill"}:
        hint = "; was its memory limit too small?" if code == signal.SIGKILL or result == "oom-kill" else ""
        return f"the program was killed by signal {code} at once{hint} (result {result}, status {code})"
    if result == "success":
        return ENDED_WELL
    if result == "exit-code":
        return f"the program ended at once with exit status {code}"
    return f"systemd could not set it up; the journal of the unit says why (result {result})"


def _checked(name: str) -> str:
    if len(name) > 255 or not re.fullmatch(r"kennel-[a-z0-9-]*[a-z0-9]\.service", name):
        raise Rejected("systemd", "check name", f"{name!r} is not the name of a unit of Kennel")
    return name
