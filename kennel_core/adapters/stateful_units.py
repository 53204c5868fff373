"""Units that keep data of their own: whose a unit is, and what it leaves behind.

Sources: org.freedesktop.systemd1(5) for CleanUnit and AddRef; systemd.exec(5) for StateDirectory.
"""

import time

from jeepney import Message, new_method_call

from kennel_core.adapters.systemd import RUNNING, Systemd
from kennel_core.adapters.unit_spec import MANAGER, UnitSpec, dynamic_user, start_message
from kennel_core.effects import Effect
from kennel_core.errors import Conflict, NotFound, Rejected, Unavailable

POLL_S = 0.01
ABSENT = frozenset({"inactive", "failed"})


class StatefulSystemd(Systemd):
    """A systemd manager, for units with a state directory. Raises what `Systemd` raises."""

    def argv(self, name: str) -> tuple[str, ...] | None:
        """Give the command line of a unit that is loaded and not ended; None when there is none."""
        try:
            if self._get(self._unit(name, "Unit"), "ActiveState") in ABSENT:
                return None
            commands = self._get(self._unit(name, "Service"), "ExecStart")
        except NotFound:
            return None
        return tuple(commands[0][1]) if commands else ()

    def is_alive(self, name: str) -> bool:
        """Tell whether a unit's program runs; False while systemd waits before it starts it again."""
        try:
            status = self.status(name)
        except NotFound:
            return False
        return status.active_state in RUNNING and status.sub_state != "auto-restart"

    def clean(self, name: str, state_directory: str, timeout: float) -> None:
        """Delete the state directory of a unit that does not run; quiet when there is none.

        Only systemd knows where a dynamic user's directory lies, and deletes it only for a unit that is
        loaded; so one of this name and this directory is run for a moment.

        Raises:
            Rejected: the unit runs.
        """
        operation = f"clean {name}"
        deadline = time.monotonic() + timeout
        try:
            self._job(operation, _kept(start_message(_nothing(name, state_directory))), timeout)
        except Conflict as exc:
            raise Rejected("systemd", operation, "the unit runs: it must be stopped first") from exc
        try:
            self._ended(name, operation, deadline)
            # Whether the program could be run at all is of no interest, and a failed unit is not cleaned.
            self._call(operation, new_method_call(MANAGER, "ResetFailedUnit", "s", (name,)))
            with Effect("clean unit"):
                self._call(operation, new_method_call(MANAGER, "CleanUnit", "sas", (name, ["state"])))
            self._ended(name, operation, deadline)
        finally:
            self.close()  # which lets systemd forget the unit

    def _ended(self, name: str, operation: str, deadline: float) -> None:
        """Wait until a unit neither runs nor is being cleaned."""
        unit = self._unit(name, "Unit")
        while self._get(unit, "ActiveState") not in ABSENT:
            if time.monotonic() > deadline:
                raise Unavailable("systemd", operation, "not done in time")
            time.sleep(POLL_S)


def _nothing(name: str, state_directory: str) -> UnitSpec:
    """Spell a unit that only has the directory."""
    return UnitSpec(
        name=name,
        argv=("/bin/true",),
        environment={},
        working_directory="/",
        description="Delete what a unit kept",
        user=dynamic_user(name),
        log_fields={},
        memory_max=16 * 1024**2,
        tasks_max=4,
        state_directory=state_directory,
    )


def _kept(message: Message) -> Message:
    """Have systemd remember the unit when it has ended, for as long as the connection lasts."""
    name, mode, properties, others = message.body
    once = [(key, value) for key, value in properties if key != "Restart"]
    message.body = (name, mode, [*once, ("AddRef", ("b", True))], others)
    return message
