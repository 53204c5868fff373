"""The systemd adapter, against a real systemd."""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kennel_core import naming
from kennel_core.adapters import dbus, journal, unit_spec
from kennel_core.adapters import systemd as adapter
from kennel_core.adapters.systemd import Systemd
from kennel_core.adapters.unit_spec import UnitSpec, dynamic_user, start_message
from kennel_core.errors import ConfigError, KennelError, NotFound, Rejected, Unavailable
from tests.servers.ports import free_port
from tests.servers.systemd import PrivateSystemd, sweep
from tests.waiting import until

ROOT = Path(__file__).parents[1]
TIMEOUT = 30.0
NAME = "kennel-shop-main-api-26684e5c.service"
FOREVER = ("/bin/sleep", "1000")
NUMBERS = itertools.count(1)
ACCOUNTING = "CPUAccounting,IOAccounting,MemoryAccounting,TasksAccounting"

DEAF = "import signal\nsignal.signal(15, signal.SIG_IGN)\nprint('deaf', flush=True)\nsignal.pause()\n"

REPORT = """\
import json, os, socket, sys
out = {}
def attempt(name, action):
    try:
        out[name] = action() or "done"
    except OSError as exc:
        out[name] = exc.strerror
attempt("write /usr", lambda: open("/usr/kennel", "w").close())
attempt("write here", lambda: open("written", "w").close())
attempt("read /root", lambda: os.listdir("/root"))
attempt("read /home", lambda: os.listdir("/home"))
attempt("read a disk", lambda: os.listdir("/dev/disk"))
attempt("list /tmp", lambda: len(os.listdir("/tmp")))
attempt("other processes", lambda: [p for p in os.listdir("/proc") if p.isdecimal() and int(p) < os.getpid()])
attempt("mount", lambda: os.listdir("/proc/sys"))
attempt("set a host name", lambda: socket.sethostname("x"))
attempt("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close())
attempt("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())
attempt("new namespace", lambda: __import__("ctypes").CDLL(None, use_errno=True).unshare(0x10000000))
attempt("interfaces", lambda: [name for _, name in socket.if_nameindex()])
attempt("listen 4", lambda: socket.create_server(("127.0.0.1", 0)).close())
attempt("listen 6", lambda: socket.create_server(("::1", 0), family=socket.AF_INET6).close())
attempt("resolve", lambda: socket.getaddrinfo("localhost", 80)[0][4][0])
lines = open("/proc/self/status").read().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
out |= {key: status[key] for key in ("CapBnd", "CapEff", "NoNewPrivs", "Seccomp")}
out |= {"uid": os.getuid(), "user": __import__("pwd").getpwuid(os.getuid()).pw_name, "umask": os.umask(0)}
out |= {"cwd": os.getcwd(), "files": sorted(os.listdir())}
out |= {"argv": sys.argv[1:], "environment": dict(os.environ)}
print("report " + json.dumps(out), flush=True)
__import__("time").sleep(1000)
"""


def spec(name: str = NAME, argv: tuple[str, ...] = FOREVER, **changes) -> UnitSpec:
    fields = {
        "environment": {},
        "working_directory": "/",
        "description": "api of shop, main",
        "user": dynamic_user(name),
        "log_fields": {"KENNEL_DEPLOYMENT": "7"},
        "memory_max": 512 * 1024**2,
        "tasks_max": 64,
    }
    return UnitSpec(name=name, argv=argv, **{**fields, **changes})


def script(systemd: PrivateSystemd, text: str, interpreter: str = "/usr/bin/python3") -> Path:
    """Put a program where a store would have it, below a directory that the sandbox hides."""
    store = systemd.dir / "store"
    home = store / f"{naming.digest(interpreter, text)}-program"
    program = home / "bin/program"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!{interpreter}\n{text}")
    for path in (store, home, program.parent, program):
        path.chmod(0o755)
    return program


def unused() -> str:
    """Give a unit name that has no lines in the session's journal yet."""
    return f"kennel-shop-main-api-{next(NUMBERS):08x}.service"


def report(systemd: PrivateSystemd, manager: Systemd, **changes) -> Mapping[str, object]:
    """Run a service that looks around, and give what it saw."""
    program = script(systemd, REPORT)
    argv = (str(program), *changes.pop("arguments", ()))
    name = unused()
    manager.start(spec(name, argv=argv, readable=(str(systemd.dir / "store"),), **changes), TIMEOUT)

    def seen() -> str | None:
        lines = journal.tail(name, 50, systemd.journal)
        return next((line for line in lines if line.startswith("report ")), None)

    return json.loads(until(seen).removeprefix("report "))


def refusal(manager: Systemd, unit: UnitSpec) -> str | None:
    """Start a unit and give what the adapter says against it, if it has noticed already."""
    try:
        manager.start(unit, TIMEOUT)
    except Rejected as exc:
        return str(exc)
    return None


def property_of(systemd: PrivateSystemd, unit: str, name: str) -> str:
    return systemd.run("systemctl", "show", f"--property={name}", "--value", unit).strip()


def test_start_runs_the_program_and_returns_when_it_has_been_executed(
    systemd: PrivateSystemd, manager: Systemd
) -> None:
    manager.start(spec(), TIMEOUT)

    status = manager.status(NAME)
    assert (status.active_state, status.sub_state, status.result) == ("active", "running", "success")
    assert (status.n_restarts, status.exec_main_status) == (0, 0)
    assert abs(status.active_enter_usec / 1e6 - time.time()) < 60
    assert manager.units() == {NAME: "active"}
    assert property_of(systemd, NAME, "Slice") == "kennel.slice"
    assert property_of(systemd, NAME, "Description") == "api of shop, main"


def test_starting_what_runs_leaves_it_alone(systemd: PrivateSystemd, manager: Systemd) -> None:
    manager.start(spec(), TIMEOUT)
    before = property_of(systemd, NAME, "InvocationID")

    manager.start(spec(), TIMEOUT)

    assert property_of(systemd, NAME, "InvocationID") == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"argv": ("/nowhere/bin/api",)}, r"/nowhere/bin/api cannot be executed: .* status 203"),
        ({"argv": ("/etc/hostname",)}, r"/etc/hostname cannot be executed: .* status 203"),
        ({"working_directory": "/nowhere"}, r"working directory /nowhere cannot be entered .* status 200"),
        ({"readable": ("/nowhere",)}, r"sandbox could not be set up.* status 226"),
        ({"argv": ("bin/api",)}, r"bin/api"),
        ({"argv": ("/bin/sleep", "1\0000")}, r"NUL"),
        ({"environment": {"PORT": "1\0PORT=2"}}, r"NUL"),
        ({"environment": {"A=B": "", "": "x"}}, r"environment"),
        ({"user": "not a user"}, r"systemd could not set it up.*result resources"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(
    manager: Systemd, changes: Mapping[str, object], said: str
) -> None:
    with pytest.raises(Rejected, match=said):
        manager.start(spec(**changes), TIMEOUT)

    assert manager.units() == {}


def test_a_program_that_ends_at_once_with_success_is_no_service(manager: Systemd) -> None:
    said = refusal(manager, spec(argv=("/bin/true",)))

    assert said is None or "ended at once, with success" in said
    until(lambda: not manager.units())


def test_a_program_that_fails_at_once_is_seen_by_the_start_or_by_its_state(manager: Systemd) -> None:
    said = refusal(manager, spec(argv=("/bin/sh", "-c", "exit 3")))

    if said is None:
        until(lambda: manager.status(NAME).sub_state == "auto-restart")
        assert manager.status(NAME).exec_main_status == 3
    else:
        assert "exit status 3" in said
        assert manager.units() == {}


def test_stop_ends_the_process_and_is_quiet_about_what_is_gone(
    systemd: PrivateSystemd, manager: Systemd
) -> None:
    manager.start(spec(), TIMEOUT)

    manager.stop(NAME, TIMEOUT)
    manager.stop(NAME, TIMEOUT)

    assert manager.units() == {}
    with pytest.raises(NotFound):
        manager.status(NAME)


def test_stop_also_ends_what_ignores_sigterm(
    systemd: PrivateSystemd, manager: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = unused()
    monkeypatch.setattr(unit_spec, "STOP_TIMEOUT_S", 1)
    program = str(script(systemd, DEAF))
    manager.start(spec(name, (program,), readable=(str(systemd.dir / "store"),)), TIMEOUT)
    until(lambda: "deaf" in journal.tail(name, 5, systemd.journal))

    manager.stop(name, TIMEOUT)

    assert manager.units() == {}


def test_a_service_that_keeps_failing_stays_visible_as_failed_and_can_be_started_again(
    manager: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_spec, "RESTART_DELAY_S", 0)
    manager.start(spec(argv=("/bin/sh", "-c", "sleep 0.1; exit 3")), TIMEOUT)
    until(lambda: manager.units().get(NAME) == "failed")
    status = manager.status(NAME)
    assert (status.active_state, status.result, status.exec_main_status) == ("failed", "exit-code", 3)

    manager.start(spec(), TIMEOUT)

    assert manager.units() == {NAME: "active"}


def test_a_service_that_dies_is_restarted_and_the_restart_is_counted(
    systemd: PrivateSystemd, manager: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_spec, "RESTART_DELAY_S", 0)
    manager.start(spec(), TIMEOUT)

    systemd.run("systemctl", "kill", "--signal=KILL", NAME)

    until(lambda: manager.status(NAME).n_restarts == 1 and manager.status(NAME).active_state == "active")


def test_status_of_an_unknown_unit_is_not_found(manager: Systemd) -> None:
    with pytest.raises(NotFound):
        manager.status("kennel-no-such-unit-00000000.service")


def test_units_names_kennels_services_only(systemd: PrivateSystemd, manager: Systemd) -> None:
    systemd.run("systemd-run", "--unit=other.service", "--quiet", "/bin/sleep", "1000")
    manager.start(spec(), TIMEOUT)

    assert manager.units() == {NAME: "active"}

    systemd.run("systemctl", "stop", "other.service")


def test_units_costs_one_call_however_many_there_are(
    systemd: PrivateSystemd, manager: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"kennel-many-main-api-{number:08x}.service" for number in range(20)]
    for name in names:
        manager.start(spec(name, sandbox=False), TIMEOUT)
    calls = []
    original = adapter.DBusConnection.send_message
    monkeypatch.setattr(
        adapter.DBusConnection,
        "send",
        lambda self, message, serial=None: calls.append(message) or original(self, message, serial),
    )
    monkeypatch.setattr(
        adapter.DBusConnection,
        "send_message",
        lambda self, message, serial=None: calls.append(message) or original(self, message, serial),
    )

    found = manager.units()

    assert found == dict.fromkeys(names, "active")
    assert len(calls) == 1


def test_a_service_outlives_the_process_that_started_it(systemd: PrivateSystemd, manager: Systemd) -> None:
    code = (
        "import os, signal, sys; from tests.test_systemd import *\n"
        "Systemd(sys.argv[1]).start(spec(), 30)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, systemd.bus], cwd=ROOT, check=False, timeout=60)

    assert done.returncode == -signal.SIGKILL
    assert manager.units() == {NAME: "active"}


def test_the_service_gets_its_environment_arguments_and_directory_as_they_are(
    systemd: PrivateSystemd, manager: Systemd
) -> None:
    directory = systemd.dir / "store/project"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "kennel.json").write_text("{}")
    for path in (directory.parent, directory):
        path.chmod(0o755)
    environment = {
        "PORT": "18000",
        "PLAIN": "$HOME %n ${PORT} a\\b \"q\" 'q' é",
        "EMPTY": "",
        "LINES": "a\n[Service]\nUser=root",
    }
    arguments = ("--plain", "$PORT", "${HOME}", "%n", "a b", "é", "\\x41", "")

    seen = report(
        systemd,
        manager,
        arguments=arguments,
        environment=environment,
        working_directory=str(directory),
    )

    assert seen["argv"] == list(arguments)
    assert seen["cwd"] == str(directory)
    assert seen["files"] == ["kennel.json"]
    given_environment = seen["environment"]
    assert isinstance(given_environment, dict)
    assert environment.items() <= given_environment.items()
    assert not [name for name in given_environment if name.startswith(("KENNEL_", "DBUS_"))]


def test_unit_and_slice_keep_the_four_accounts(systemd: PrivateSystemd, manager: Systemd) -> None:
    manager.start(spec(), TIMEOUT)

    for unit in (NAME, "kennel.slice"):
        assert property_of(systemd, unit, ACCOUNTING).split() == ["yes"] * 4, unit
        for figure in ("MemoryCurrent", "CPUUsageNSec", "TasksCurrent"):
            assert int(property_of(systemd, unit, figure)) > 0, (unit, figure)
    assert property_of(systemd, NAME, "MemoryMax") == str(512 * 1024**2)
    assert property_of(systemd, NAME, "TasksMax") == "64"


def test_the_slice_gets_its_accounts_where_the_machine_has_no_file_for_it(
    own_systemd: PrivateSystemd,
) -> None:
    (own_systemd.dir / "units/kennel.slice").unlink()
    own_systemd.run("systemctl", "daemon-reload")

    with Systemd(own_systemd.bus) as manager:
        manager.start(spec(), TIMEOUT)

    assert property_of(own_systemd, "kennel.slice", ACCOUNTING).split() == ["yes"] * 4


def test_the_sandbox_holds_seen_from_inside(systemd: PrivateSystemd, manager: Systemd) -> None:
    seen = report(systemd, manager)

    assert seen["write /usr"] == "Read-only file system"
    assert seen["read /root"] == seen["read /home"] == "Permission denied"
    assert seen["read a disk"] == "No such file or directory"
    assert seen["other processes"] == "done"  # none
    assert seen["mount"] == "No such file or directory"
    assert seen["set a host name"] == "Operation not permitted"
    assert seen["raw socket"] == "Operation not permitted"
    assert seen["packet socket"] == "Address family not supported by protocol"
    assert seen["new namespace"] == -1
    assert (seen["CapBnd"], seen["CapEff"]) == ("0" * 16, "0" * 16)
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")
    assert seen["umask"] == 0o077
    assert re.fullmatch("kennel_[0-9a-f]{16}", seen["user"])
    assert seen["uid"] not in (0, 65534)


def test_a_service_can_do_what_a_web_application_needs(systemd: PrivateSystemd, manager: Systemd) -> None:
    seen = report(systemd, manager)

    assert seen["listen 4"] == seen["listen 6"] == "done"
    assert seen["resolve"] in ("127.0.0.1", "::1")
    assert "lo" in seen["interfaces"]


def test_what_a_service_serves_on_loopback_is_reached_from_outside(
    systemd: PrivateSystemd, manager: Systemd
) -> None:
    port = free_port()
    program = script(
        systemd,
        f"import http.server as h\nh.test(h.SimpleHTTPRequestHandler, bind='127.0.0.1', port={port})\n",
    )
    manager.start(spec(argv=(str(program),), readable=(str(systemd.dir / "store"),)), TIMEOUT)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(answers)
    with urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
        assert response.status == 200


def test_node_compiles_and_lists_its_interfaces_in_the_sandbox(
    systemd: PrivateSystemd, manager: Systemd
) -> None:
    name = unused()
    node = shutil.which("node")
    assert node, "node is not installed: run `make setup`"
    code = (
        "let n = 0; for (let i = 0; i < 3e6; i++) n += i % 7;"
        "console.log('node', n > 0, Object.keys(require('os').networkInterfaces()).includes('lo'));"
        "setInterval(() => {}, 1000)"
    )

    manager.start(spec(name, argv=(node, "-e", code)), TIMEOUT)

    until(lambda: "node true true" in journal.tail(name, 20, systemd.journal))


@pytest.mark.parametrize("base", ["/tmp", "/var/tmp", "/root", "/srv"])
def test_a_store_in_a_directory_that_the_sandbox_hides_can_be_made_readable(
    systemd: PrivateSystemd, manager: Systemd, base: str
) -> None:
    name = unused()
    store = Path(base) / f"store.{systemd.dir.name}"
    program = store / "abc-program/bin/program"
    program.parent.mkdir(parents=True)
    try:
        program.write_text("#!/bin/sh\necho from the store\nexec sleep 1000\n")
        for path in (store, *program.parents[:2], program):
            path.chmod(0o755)

        manager.start(spec(name, argv=(str(program),), readable=(str(store),)), TIMEOUT)

        until(lambda: "from the store" in journal.tail(name, 20, systemd.journal))
        manager.stop(name, TIMEOUT)
    finally:
        shutil.rmtree(store)


def test_systemd_itself_rates_the_sandbox_at_two_or_better(systemd: PrivateSystemd, manager: Systemd) -> None:
    manager.start(spec(readable=(str(systemd.dir),)), TIMEOUT)

    rating = systemd.run("systemd-analyze", "security", "--no-pager", NAME)

    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", rating)
    assert found
    assert float(found[1]) <= 2.0


def test_log_lines_carry_the_given_fields(systemd: PrivateSystemd, manager: Systemd) -> None:
    fields = {"KENNEL_DEPLOYMENT": "7", "KENNEL_BUILD": "12", "KENNEL_PROJECT": "acme/shop"}
    manager.start(spec(argv=("/bin/sh", "-c", "echo hello; exec sleep 1000"), log_fields=fields), TIMEOUT)
    matches = [f"{name}={value}" for name, value in fields.items()]

    def lines() -> str:
        argv = ["journalctl", f"--directory={systemd.journal}", "--output=cat", "--quiet", *matches]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout

    assert "hello" in until(lines)


def test_a_service_over_its_memory_limit_is_killed(systemd: PrivateSystemd, manager: Systemd) -> None:
    name = unused()
    greedy = (
        "b = bytearray(200 * 1024 * 1024)\nprint('survived', flush=True)\n__import__('time').sleep(1000)\n"
    )
    program = str(script(systemd, greedy))
    limited = spec(name, argv=(program,), readable=(str(systemd.dir / "store"),), memory_max=64 * 1024**2)

    said = refusal(manager, limited)

    if said is None:
        until(lambda: manager.status(name).sub_state == "auto-restart")
    else:
        assert "memory limit" in said
    assert "survived" not in journal.tail(name, 20, systemd.journal)


def test_without_a_bus_every_operation_is_unavailable_until_it_returns(own_systemd: PrivateSystemd) -> None:
    with Systemd(own_systemd.bus) as manager:
        manager.start(spec(), TIMEOUT)
        own_systemd.run("systemctl", "stop", "dbus.socket", "dbus.service")

        for operation in (
            manager.units,
            lambda: manager.status(NAME),
            lambda: manager.start(spec("kennel-other-00000000.service"), TIMEOUT),
            lambda: manager.stop(NAME, TIMEOUT),
        ):
            with pytest.raises(Unavailable, match=r"systemd: .*dbus/system_bus_socket"):
                operation()

        own_systemd.run("systemctl", "start", "dbus.socket", "dbus.service")
        assert until(lambda: _or_none(manager.units)) == {NAME: "active"}
        manager.stop(NAME, TIMEOUT)
        assert manager.units() == {}


def test_a_bus_that_hangs_is_unavailable_in_time(
    own_systemd: PrivateSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dbus, "CALL_TIMEOUT_S", 0.3)
    monkeypatch.setattr(dbus, "CONNECT_TIMEOUT_S", 0.3)
    with Systemd(own_systemd.bus) as manager:
        manager.start(spec(), TIMEOUT)
        own_systemd.run("systemctl", "kill", "--signal=STOP", "dbus.service")
        for _ in range(2):  # on the old connection, then on a new one
            with pytest.raises(Unavailable, match="no answer in time"):
                manager.units()

        own_systemd.run("systemctl", "kill", "--signal=CONT", "dbus.service")
        assert until(lambda: _or_none(manager.units)) == {NAME: "active"}


def test_a_systemd_that_hangs_is_unavailable_in_time(
    own_systemd: PrivateSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dbus, "CALL_TIMEOUT_S", 0.3)
    (frozen,) = (
        Path(f"/proc/{_outer_pid(own_systemd)}/task/{_outer_pid(own_systemd)}/children").read_text().split()
    )
    with Systemd(own_systemd.bus) as manager:
        manager.start(spec(), TIMEOUT)
        os.kill(int(frozen), signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable, match="no answer in time"):
                manager.start(spec("kennel-other-00000000.service"), TIMEOUT)
        finally:
            os.kill(int(frozen), signal.SIGCONT)
        assert until(lambda: _or_none(manager.units))[NAME] == "active"


def test_a_job_that_takes_too_long_is_unavailable(systemd: PrivateSystemd, manager: Systemd) -> None:
    name = unused()
    program = str(script(systemd, DEAF))
    manager.start(spec(name, (program,), readable=(str(systemd.dir / "store"),)), TIMEOUT)
    until(lambda: "deaf" in journal.tail(name, 5, systemd.journal))

    with pytest.raises(Unavailable, match=r"stop kennel-.*: not done within 0.2 s"):
        manager.stop(name, 0.2)

    systemd.run("systemctl", "kill", "--signal=KILL", name)
    until(lambda: manager.units().get(name) in (None, "failed"))


def test_services_survive_a_restart_of_systemd_and_a_reload(
    systemd: PrivateSystemd, manager: Systemd
) -> None:
    manager.start(spec(environment={"PLAIN": "$HOME %n"}), TIMEOUT)
    before = property_of(systemd, NAME, "InvocationID")
    settings = [property_of(systemd, NAME, name) for name in ("Environment", "Restart", "User")]

    systemd.run("systemctl", "daemon-reload")
    systemd.run("systemctl", "daemon-reexec")

    assert until(lambda: _or_none(manager.units)) == {NAME: "active"}
    assert property_of(systemd, NAME, "InvocationID") == before
    assert [property_of(systemd, NAME, name) for name in ("Environment", "Restart", "User")] == settings


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ssh.service",
        "kennel.slice",
        "kennel-.service",
        "kennel-*.service",
        "kennel-a@b.service",
        "kennel-a.socket",
        "kennel-a.service\n",
        "kennel-a.service.service",
        "kennel-../../etc/passwd.service",
        "kennel-a$(touch x).service",
        "kennel-A.service",
        "kennel-\u0430.service",
        f"kennel-{'a' * 300}.service",
        "--now",
    ],
)
def test_a_name_that_kennel_does_not_give_is_refused(manager: Systemd, name: str) -> None:
    for operation in (
        lambda: manager.start(spec(name), TIMEOUT),
        lambda: manager.stop(name, TIMEOUT),
        lambda: manager.status(name),
    ):
        with pytest.raises(Rejected, match="is not the name of a unit of Kennel"):
            operation()
    assert manager.units() == {}


@given(
    st.lists(st.text(max_size=80), max_size=4),
    st.dictionaries(st.from_regex(r"[A-Z_]{1,20}", fullmatch=True), st.text(max_size=80), max_size=5),
)
def test_any_text_makes_a_message_that_can_be_sent_or_is_refused(
    arguments: list[str], environment: dict[str, str]
) -> None:
    unit = spec(argv=("/bin/true", *arguments), environment=environment)
    if "\0" in "".join((*arguments, *environment.values())):
        with pytest.raises(Rejected, match="NUL"):
            start_message(unit)
    else:
        assert start_message(unit).serialise(serial=1)


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=100))
def test_every_name_that_kennel_gives_is_accepted(project: str, ref: str, service: str) -> None:
    name = naming.unit(project, ref, service, "26684e5c")

    assert adapter._checked(name) == name
    assert re.fullmatch(r"kennel_[0-9a-f]{16}", dynamic_user(name))


def test_who_may_not_start_units_is_told_so_and_may_still_list_them(
    systemd: PrivateSystemd, manager: Systemd
) -> None:
    manager.start(spec(), TIMEOUT)
    os.setresuid(65534, 65534, 0)
    try:
        with Systemd(systemd.bus) as stranger:
            assert stranger.units() == {NAME: "active"}
            with pytest.raises(Rejected, match="the reconciler must run as root"):
                stranger.start(spec("kennel-other-00000000.service"), TIMEOUT)
            with pytest.raises(Rejected, match="the reconciler must run as root"):
                stranger.stop(NAME, TIMEOUT)
    finally:
        os.setresuid(0, 0, 0)
    assert manager.units() == {NAME: "active"}


def test_two_who_start_the_same_unit_at_once_get_one_service(
    systemd: PrivateSystemd, manager: Systemd
) -> None:
    def start(_number: int) -> None:
        with Systemd(systemd.bus) as client:
            client.start(spec(), TIMEOUT)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(start, range(8)))

    assert manager.units() == {NAME: "active"}
    assert manager.status(NAME).n_restarts == 0


@pytest.mark.parametrize("bus", ["nonsense", "tcp:host=localhost,port=1", "unix:tmpdir=/tmp"])
def test_an_address_that_cannot_be_used_is_a_mistake_of_configuration(bus: str) -> None:
    with pytest.raises(ConfigError, match="not a D-Bus address"):
        Systemd(bus)


def test_the_users_own_manager_is_found_and_its_sandbox_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/12345")

    manager = Systemd("session")

    assert not manager.sandboxed
    assert Systemd("system").sandboxed
    with pytest.raises(Unavailable, match="/run/user/12345/bus"):
        manager.units()


def test_no_service_and_no_file_outlives_tests_that_are_killed() -> None:
    code = (
        "import time\n"
        "from tests.servers.systemd import private_systemd\n"
        "from tests.test_systemd import *\n"
        "with private_systemd() as server, Systemd(server.bus) as manager:\n"
        "    manager.start(spec(), 30)\n"
        "    print(server.dir, flush=True)\n"
        "    time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        directory = Path(child.stdout.readline().strip())
        groups = (directory / "cgroups").read_text().split()
        child.kill()

    until(lambda: not _members(groups), what="every process is gone")
    assert directory in sweep()
    assert not directory.exists()
    assert str(directory) not in Path("/proc/mounts").read_text()
    assert not [group for group in groups if Path(group).exists()]


def _members(groups: list[str]) -> list[str]:
    return [
        pid
        for group in groups
        for path in Path(group).rglob("cgroup.procs")
        for pid in path.read_text().split()
    ]


def _outer_pid(server: PrivateSystemd) -> int:
    return int((server.dir / "outer.pid").read_text().split()[0])


def _or_none(call):
    try:
        return call()
    except KennelError:
        return None
