"""Spell a service as the D-Bus call that makes systemd run it. Pure.

Sources: org.freedesktop.systemd1(5) for StartTransientUnit; systemd.exec(5), systemd.service(5),
systemd.resource-control(5) for the meaning of each property, whose D-Bus signature stands beside it.
"""

import errno
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jeepney import DBusAddress, Message, new_method_call

from kennel_core.errors import Rejected

SLICE = "kennel.slice"
SYSTEMD1 = "org.freedesktop.systemd1"
MANAGER = DBusAddress("/org/freedesktop/systemd1", SYSTEMD1, f"{SYSTEMD1}.Manager")

RESTART_DELAY_S = 5
START_LIMIT = 5  # starts within START_LIMIT_S; then the unit stays failed
START_LIMIT_S = 5 * 60
STOP_TIMEOUT_S = 10  # from SIGTERM to SIGKILL

ACCOUNTING = ("CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting")
HIDDEN_HOMES = ("/home", "/root", "/run/user")

_MS_REC = 0x4000  # mount(2): with everything mounted below

Property = tuple[str, tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class UnitSpec:
    """A service to run as a transient unit.

    `argv` starts with an absolute path and is passed on literally: no ``%`` or ``$`` is expanded.
    `environment` can be read by every local user over D-Bus, so no secret belongs there. `memory_max`
    is in bytes. `user` is the name of the dynamic user, see `dynamic_user`. `readable` are directories
    the service must see read-only although the sandbox hides where they lie (/tmp, /var/tmp, homes):
    a store that is not /nix/store.

    Secrets go into `environment_file` and `credentials` (path by name): systemd reads both at every start of
    the process, as root; their paths, not their content, can be seen over D-Bus. `hidden` directories are
    empty inside but for `visible` ones below them, which must exist when the unit starts, and must not be
    replaced by others of the same name while it runs. `state_directory` is below /var/lib, the unit's own.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    working_directory: str
    description: str
    user: str
    log_fields: Mapping[str, str]
    memory_max: int
    tasks_max: int
    sandbox: bool = True
    readable: tuple[str, ...] = field(default=())
    environment_file: str = ""
    credentials: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    visible: tuple[str, ...] = ()
    state_directory: str = ""


# Below an inaccessible directory systemd drops a bind mount without a word; in a tmpfs it has a place. With
# ProtectHome alone, systemd 257 lets only root into that of /root, so they are asked for once more.
_EMPTY = "ro,mode=0755"  # options of a tmpfs


def dynamic_user(unit: str) -> str:
    """Name the user a unit runs as: ``kennel_`` and 16 hex digits.

    >>> dynamic_user("kennel-shop-main-api-26684e5c.service")
    'kennel_e8cf61b0ce008790'
    """
    stem = unit.removesuffix(".service")
    return f"kennel_{hashlib.sha256(stem.encode()).hexdigest()[:16]}"


def start_message(spec: UnitSpec) -> Message:
    """Spell a unit as the StartTransientUnit call that creates it.

    Mode "fail" makes systemd refuse a name that is already in use.

    Raises:
        Rejected: a text has a NUL in it, for which D-Bus would end the connection.
    """
    if "\0" in "".join((*spec.argv, *spec.environment.values(), *spec.readable, *spec.log_fields.values())):
        raise Rejected("systemd", f"start {spec.name}", "an argument or variable has a NUL character in it")
    properties = [*_service(spec), *_limits(spec), *(_sandbox(spec) if spec.sandbox else ())]
    return new_method_call(
        MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", (spec.name, "fail", properties, [])
    )


def accounting() -> list[Property]:
    """Turn on every account systemd can keep."""
    return [(name, ("b", True)) for name in ACCOUNTING]


def _service(spec: UnitSpec) -> list[Property]:
    program = spec.argv[0]
    return [
        ("Description", ("s", spec.description)),
        ("Slice", ("s", SLICE)),
        ("Type", ("s", "exec")),  # "simple" calls a start done even when there is no such program
        ("ExecStartEx", ("a(sasas)", [(program, list(spec.argv), ["no-env-expand"])])),
        ("Environment", ("as", [f"{name}={value}" for name, value in sorted(spec.environment.items())])),
        *(
            [("EnvironmentFiles", ("a(sb)", [(spec.environment_file, False)]))]
            if spec.environment_file
            else []
        ),
        ("LoadCredential", ("a(ss)", sorted(spec.credentials.items()))),
        *([("StateDirectory", ("as", [spec.state_directory]))] if spec.state_directory else []),
        ("WorkingDirectory", ("s", spec.working_directory)),
        ("LogExtraFields", ("aay", [f"{k}={v}".encode() for k, v in sorted(spec.log_fields.items())])),
        ("Restart", ("s", "on-failure")),
        ("RestartUSec", ("t", RESTART_DELAY_S * 1_000_000)),
        ("StartLimitIntervalUSec", ("t", START_LIMIT_S * 1_000_000)),
        ("StartLimitBurst", ("u", START_LIMIT)),
        ("KillMode", ("s", "mixed")),
        ("TimeoutStopUSec", ("t", STOP_TIMEOUT_S * 1_000_000)),
        ("CollectMode", ("s", "inactive")),  # a failed unit stays, to be seen
    ]


def _limits(spec: UnitSpec) -> list[Property]:
    return [
        *accounting(),
        ("MemoryMax", ("t", spec.memory_max)),
        ("TasksMax", ("t", spec.tasks_max)),
        ("NoNewPrivileges", ("b", True)),
        ("UMask", ("u", 0o077)),
    ]


def _sandbox(spec: UnitSpec) -> list[Property]:
    """Confine the service; `systemd-analyze security` gives it less than 2.0.

    MemoryDenyWriteExecute is missing because a just-in-time compiler needs such memory. AF_NETLINK
    is there because Node and Go list the network's interfaces through it, and Next.js ends without it.
    """
    seen = (*spec.readable, *spec.visible)
    below_home = any(path.startswith(tuple(f"{home}/" for home in HIDDEN_HOMES)) for path in seen)
    empty = (*(HIDDEN_HOMES if below_home else ()), *spec.hidden)
    return [
        ("DynamicUser", ("b", True)),
        ("User", ("s", spec.user)),
        ("ProtectSystem", ("s", "strict")),
        ("ProtectHome", ("s", "tmpfs" if below_home else "yes")),
        ("TemporaryFileSystem", ("a(ss)", [(path, _EMPTY) for path in empty])),
        *_binds("BindPaths", spec.visible),
        *_binds("BindReadOnlyPaths", spec.readable),
        ("PrivateTmp", ("b", True)),
        ("PrivateDevices", ("b", True)),
        ("ProtectProc", ("s", "invisible")),
        ("ProcSubset", ("s", "pid")),
        ("ProtectKernelTunables", ("b", True)),
        ("ProtectKernelModules", ("b", True)),
        ("ProtectKernelLogs", ("b", True)),
        ("ProtectControlGroups", ("b", True)),
        ("ProtectClock", ("b", True)),
        ("ProtectHostname", ("b", True)),
        ("RestrictNamespaces", ("t", 0)),  # a mask of what is allowed
        ("RestrictSUIDSGID", ("b", True)),
        ("RestrictRealtime", ("b", True)),
        ("LockPersonality", ("b", True)),
        ("CapabilityBoundingSet", ("t", 0)),
        ("RestrictAddressFamilies", ("(bas)", (True, ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"]))),
        ("SystemCallArchitectures", ("as", ["native"])),
        ("SystemCallFilter", ("(bas)", (True, ["@system-service"]))),
        ("SystemCallFilter", ("(bas)", (False, ["@privileged", "@resources"]))),
        ("SystemCallErrorNumber", ("i", errno.EPERM)),  # an error a program can live with, not a signal
    ]


def _binds(name: str, paths: tuple[str, ...]) -> list[Property]:
    """Spell bind mounts; an empty list of either kind would make systemd forget those of the other, too."""
    return [(name, ("a(ssbt)", [(path, path, False, _MS_REC) for path in paths]))] if paths else []
