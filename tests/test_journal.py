"""The journal adapter, against what a real journald has written for real units."""

import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kennel_core.adapters import journal
from kennel_core.adapters.systemd import Systemd
from kennel_core.errors import Unavailable
from tests.servers.systemd import PrivateSystemd
from tests.test_systemd import TIMEOUT, script, spec
from tests.waiting import until

DEPLOYMENTS = itertools.count(1000)


@pytest.fixture
def deployment() -> int:
    """The id of a deployment that has no lines in the session's journal yet."""
    return next(DEPLOYMENTS)


def unit_of(deployment: int, revision: str = "00000001") -> str:
    return f"kennel-log{deployment}-main-api-{revision}.service"


def say(manager: Systemd, deployment: int, shell: str, revision: str = "00000001") -> str:
    """Run a service that executes shell commands, and go on without an end."""
    name = unit_of(deployment, revision)
    fields = {"KENNEL_DEPLOYMENT": str(deployment)}
    manager.start(spec(name, ("/bin/sh", "-c", f"{shell}\nexec sleep 1000"), log_fields=fields), TIMEOUT)
    return name


def messages(systemd: PrivateSystemd, deployment: int, unit: str | None, **changes) -> list[str]:
    options = {"lines": 1000, "since": None, "follow": False, "directory": systemd.journal, **changes}
    return [line.split(" ", 1)[1] for line in journal.read(deployment, unit, **options)]


def own(systemd: PrivateSystemd, deployment: int, unit: str, **changes) -> list[str]:
    """Give what the service wrote, without what systemd says of it."""
    return [line for line in messages(systemd, deployment, unit, **changes) if unit not in line]


def children() -> list[str]:
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    names = [Path(f"/proc/{pid}/comm") for pid in path.read_text().split()]
    return [name.read_text().strip() for name in names if name.exists()]


def test_lines_come_in_order_with_their_time(
    systemd: PrivateSystemd, manager: Systemd, deployment: int
) -> None:
    unit = say(manager, deployment, "echo one; echo two >&2; echo '  three'")
    until(lambda: len(own(systemd, deployment, unit)) == 3)

    lines = list(
        journal.read(deployment, unit, lines=10, since=None, follow=False, directory=systemd.journal)
    )

    assert own(systemd, deployment, unit) == ["one", "two", "  three"]
    assert any("Started" in line for line in lines)
    for line in lines:
        moment = datetime.fromisoformat(line.split(" ", 1)[0])
        assert abs(datetime.now(UTC) - moment) < timedelta(minutes=5)


def test_lines_of_all_revisions_of_a_deployment_are_read_and_no_others(
    systemd: PrivateSystemd, manager: Systemd, deployment: int
) -> None:
    say(manager, deployment, "echo old", "00000001")
    unit = say(manager, deployment, "echo new", "00000002")
    say(manager, next(DEPLOYMENTS), "echo stranger")

    until(lambda: own(systemd, deployment, unit)[-1:] == ["new"])

    read = messages(systemd, deployment, unit)
    assert [line for line in read if line in ("old", "new", "stranger")] == ["old", "new"]
    assert any(line.startswith(f"Started {unit}") for line in read)
    others = [line for line in messages(systemd, deployment, None) if "service" not in line]
    assert others == ["old", "new"]  # a newer systemd marks its own lines as the deployment's, too


def test_systemds_own_word_on_a_failure_is_among_the_lines(
    systemd: PrivateSystemd, manager: Systemd, deployment: int
) -> None:
    unit = say(manager, deployment, "echo started; sleep 0.3; exit 3")

    until(lambda: any("status=3" in line for line in messages(systemd, deployment, unit)))


def test_another_service_cannot_write_into_the_log(
    systemd: PrivateSystemd, manager: Systemd, deployment: int
) -> None:
    unit = say(manager, deployment, "echo genuine")
    forger = script(
        systemd,
        "import socket, time\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.connect('/run/systemd/journal/socket')\n"
        f"s.send(b'MESSAGE=forged\\nKENNEL_DEPLOYMENT={deployment}\\nUNIT={unit}\\n')\n"
        "print('sent', flush=True)\n"
        "time.sleep(1000)\n",
    )
    other = unit_of(next(DEPLOYMENTS))
    store = str(systemd.dir / "store")
    manager.start(spec(other, (str(forger),), readable=(store,)), TIMEOUT)
    until(lambda: "forged" in journal.tail(other, 10, systemd.journal))

    assert own(systemd, deployment, unit) == ["genuine"]
    assert "forged" not in journal.tail(unit, 100, systemd.journal)


def test_control_characters_and_colours_are_removed(
    systemd: PrivateSystemd, manager: Systemd, deployment: int
) -> None:
    unit = say(
        manager,
        deployment,
        r"printf 'a\tb \033[1;31mred\033[0m \033]0;title\007bell\007 back\bspace '"
        r"; printf '\302\205 bad\377 \303\251\n'",
    )
    until(lambda: own(systemd, deployment, unit))

    assert own(systemd, deployment, unit) == ["a\tb red bell backspace  bad\ufffd é"]


def test_a_long_line_is_whole(systemd: PrivateSystemd, manager: Systemd, deployment: int) -> None:
    unit = say(manager, deployment, "head -c 30000 /dev/zero | tr '\\0' x; echo")

    until(lambda: own(systemd, deployment, unit) == ["x" * 30000])


@pytest.mark.parametrize("since", [None, "1h", "2000-01-01T00:00:00Z"])
def test_the_last_lines_are_given_with_and_without_a_time(
    systemd: PrivateSystemd, manager: Systemd, deployment: int, since: str | None
) -> None:
    unit = say(manager, deployment, "seq 1 100")
    until(lambda: "100" in own(systemd, deployment, unit))

    last = messages(systemd, deployment, unit, lines=20, since=since)
    assert len(last) == 20
    assert [line for line in last if unit not in line][-3:] == ["98", "99", "100"]
    assert len(own(systemd, deployment, unit, lines=1000, since=since)) == 100


def test_since_leaves_out_what_is_older(systemd: PrivateSystemd, manager: Systemd, deployment: int) -> None:
    unit = say(manager, deployment, "echo old", "00000001")
    until(lambda: own(systemd, deployment, unit))
    between = f"{time.time():.6f}"
    unit = say(manager, deployment, "echo new", "00000002")
    until(lambda: "new" in own(systemd, deployment, unit))

    assert own(systemd, deployment, unit, since=between) == ["new"]
    assert own(systemd, deployment, unit, since=f"{time.time() + 60:.0f}") == []


def follow(systemd: PrivateSystemd, deployment: int, unit: str, **changes) -> Iterator[str]:
    options = {"lines": 10, "since": None, "follow": True, "directory": systemd.journal, **changes}
    return journal.read(deployment, unit, **options)


def collect(lines: Iterator[str], last: str) -> list[str]:
    """Read messages up to one."""
    found = []
    for line in lines:
        if line:
            found.append(line.split(" ", 1)[1])
        if found[-1:] == [last]:
            break
    return found


def test_following_gives_what_was_there_and_then_every_line_once(
    systemd: PrivateSystemd, manager: Systemd, deployment: int
) -> None:
    unit = say(manager, deployment, "seq 1 20; sleep 0.5; seq 21 400")
    lines = follow(systemd, deployment, unit, lines=1000)

    found = [line for line in collect(lines, "400") if unit not in line]

    assert found == [str(number) for number in range(1, 401)]
    lines.close()  # type: ignore[attr-defined]


def test_following_begins_before_the_first_line_of_a_unit_that_has_none(
    systemd: PrivateSystemd, manager: Systemd, deployment: int
) -> None:
    lines = follow(systemd, deployment, unit_of(deployment))
    assert next(lines) == ""

    unit = say(manager, deployment, "echo first; echo second; echo third")

    found = [line for line in collect(lines, "third") if unit not in line]
    assert found == ["first", "second", "third"]
    lines.close()  # type: ignore[attr-defined]


def test_a_follower_of_silence_hears_something_and_leaves_no_process(
    systemd: PrivateSystemd, deployment: int
) -> None:
    lines = follow(systemd, deployment, unit_of(deployment))
    assert [next(lines), next(lines)] == ["", ""]
    assert "journalctl" in children()

    lines.close()  # type: ignore[attr-defined]

    assert "journalctl" not in children()


def test_tail_gives_the_last_messages_of_one_revision(
    systemd: PrivateSystemd, manager: Systemd, deployment: int
) -> None:
    say(manager, deployment, "echo old", "00000001")
    unit = say(manager, deployment, "seq 1 9; sleep 0.3; exit 4", "00000002")
    until(lambda: any("status=4" in line for line in journal.tail(unit, 30, systemd.journal)))

    lines = journal.tail(unit, 30, systemd.journal)

    assert [line for line in lines if unit not in line] == [str(number) for number in range(1, 10)]
    assert len(journal.tail(unit, 2, systemd.journal)) == 2


def test_a_journal_that_cannot_be_read_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unavailable, match=r"journal: read: .*nowhere"):
        journal.tail("kennel-a-b-c-00000001.service", 1, tmp_path / "nowhere")

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="cannot run journalctl"):
        journal.tail("kennel-a-b-c-00000001.service", 1, tmp_path)


def test_a_journalctl_that_hangs_is_unavailable_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = tmp_path / "journalctl"
    hanging.write_text("#!/bin/sh\nexec sleep 1000\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(journal, "READ_TIMEOUT_S", 0.2)

    before = children()
    with pytest.raises(Unavailable, match=r"nothing within 0.2 s"):
        journal.tail("kennel-a-b-c-00000001.service", 1, None)

    assert children() == before


def test_journalctl_ends_by_itself_when_its_reader_was_killed(
    systemd: PrivateSystemd, deployment: int
) -> None:
    argv = ["journalctl", f"--directory={systemd.journal}", "--follow", f"KENNEL_DEPLOYMENT={deployment}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout
        child.stdout.close()

        assert child.wait(30) is not None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("1769860800", 1769860800),
        ("1769860800.5", 1769860800.5),
        ("2026-01-31T12:00:00Z", 1769860800),
        ("2026-01-31T13:00:00+01:00", 1769860800),
        ("2026-01-31T12:00:00", 1769860800),
        ("2026-01-31 12:00:00", 1769860800),
        ("2026-01-31", 1769817600),
    ],
)
def test_a_point_in_time_is_understood(text: str, seconds: float) -> None:
    assert journal.parse_since(text) == seconds


@pytest.mark.parametrize(("text", "age"), [("90s", 90), ("15m", 900), ("2h", 7200), ("3d", 259200)])
def test_an_age_counts_back_from_now(text: str, age: float) -> None:
    before = time.time()
    assert before - age <= journal.parse_since(text) <= time.time() - age


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "yesterday",
        "-5m",
        "--until=x",
        "1h; rm",
        "2026-13-01",
        "\u0661\u0665m",
        "1e9",
        "15m\n",
        "@1",
        "9" * 40,
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        journal.parse_since(text)


@given(st.text(max_size=60))
def test_any_text_is_a_time_or_is_refused_with_a_sentence(text: str) -> None:
    try:
        assert journal.parse_since(text) >= 0
    except ValueError as exc:
        assert "is not a time" in str(exc)  # noqa: PT017  # both outcomes are right
