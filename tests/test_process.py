"""The supervisor: output line by line, limits, and nothing left running. Real processes."""

import itertools
import os
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kennel_core.adapters import process_tree
from kennel_core.adapters.lines import LINE_MAX, Splitter, clean
from kennel_core.adapters.process import MARKER, TICK_S, Command, Finished, run
from kennel_core.errors import Cancelled, Unavailable
from kennel_core.pipeline.job import CANCEL_POLL_S
from tests.waiting import until

ENV = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


def command(*argv, label="x", timeout=30, stdin=None, capture=False, env=ENV) -> Command:
    return Command(label, argv, Path("/"), env, timeout, stdin, capture)


def shell(script: str, **more) -> Command:
    return command("/bin/sh", "-c", script, **more)


def python(script: str, **more) -> Command:
    return command(sys.executable, "-c", textwrap.dedent(script), **more)


def collect(*commands: Command, **more) -> tuple[list[Finished], list[tuple[str, str]]]:
    lines: list[tuple[str, str]] = []
    done = run(commands, on_line=lambda label, text: lines.append((label, text)), **more)
    return done, lines


def one(the_command: Command) -> tuple[Finished, list[str]]:
    done, lines = collect(the_command)
    return done[0], [text for _label, text in lines]


def split(*parts: bytes) -> list[str]:
    splitter = Splitter()
    return [line for part in parts for line in splitter.feed(part)] + list(splitter.end())


def sleepers(word: str) -> set[int]:
    """Processes, zombies left out, that have `word` among their arguments."""
    found = set()
    for process in process_tree.table().values():
        try:
            arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if word.encode() in arguments and process.pid != os.getpid():
            found.add(process.pid)
    return found


def zombies() -> set[int]:
    mine = (process for process in process_tree.table().values() if process.parent == os.getpid())
    return {process.pid for process in mine if process.state == "Z"}


@pytest.fixture
def word() -> str:
    """A number of seconds that only this test sleeps."""
    return f"{10_000 + time.time_ns() % 1_000_000}"


# --- lines


def test_both_streams_come_line_by_line_with_the_label():
    done, lines = collect(shell("echo out; echo err >&2; printf last", label="clone"))

    assert sorted(lines) == [("clone", "err"), ("clone", "last"), ("clone", "out")]
    assert done[0].exit_code == 0
    assert done[0].stdout == ""


def test_a_captured_answer_is_not_streamed():
    done, lines = one(shell("echo '{\"a\": 1}'; echo note >&2", capture=True))

    assert done.stdout == '{"a": 1}\n'
    assert lines == ["note"]


def test_input_of_any_size_reaches_the_command():
    done, _lines = one(command("/usr/bin/wc", "-c", stdin=b"x" * 1_000_000, capture=True))

    assert done.stdout.strip() == "1000000"


def test_the_environment_is_exactly_what_was_given(monkeypatch):
    monkeypatch.setenv("A_SECRET", "hunter2")

    done, _lines = one(command("/usr/bin/env", env={"ONLY": "this"}, capture=True))

    assert {line.partition("=")[0] for line in done.stdout.splitlines()} == {"ONLY", MARKER}


def test_the_last_lines_are_kept():
    done, lines = one(shell("seq 1000"))

    assert len(lines) == 1000
    assert done.tail == [str(number) for number in range(981, 1001)]


def test_a_line_is_passed_on_before_the_command_ends():
    began = time.monotonic()
    seen: list[float] = []

    run([shell("echo now; sleep 2")], on_line=lambda _label, _text: seen.append(time.monotonic() - began))

    assert seen[0] < time.monotonic() - began - 1


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"10%\r20%\r100%\ndone\n", ["100%", "done"]),
        (b"dos\r\nlines\r\n", ["dos", "lines"]),
        (b"a\r", ["a"]),
        (b"\n\n", ["", ""]),
        (b"\xff\xfeok\n", ["\ufffd\ufffdok"]),
        (b"\x1b[31mred\x1b[0m \x1b]0;title\x07x\x1b[2K\n", ["red x"]),
        (b"a\x00b\x07c\td\x7f\n", ["abc\td"]),
        ("c1\x9b31m\x85 \u2028next\n".encode(), ["c1 next"]),
        (b"\x1b]8;;http://e.example/\x1b\\link\x1b]8;;\x1b\\\n", ["link"]),
        (b"no newline", ["no newline"]),
    ],
)
def test_what_a_terminal_would_not_show_is_left_out(written, shown):
    assert split(written) == shown
    assert split(*(bytes([byte]) for byte in written)) == shown


def test_a_line_without_end_comes_in_pieces():
    pieces = split(b"x" * (3 * LINE_MAX + 5))

    assert [len(piece) for piece in pieces] == [LINE_MAX, LINE_MAX, LINE_MAX, 5]


def test_progress_without_end_is_one_line():
    assert split(*(f"\r{number}%".encode() for number in range(100_000))) == ["99999%"]


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_lines_hold_no_control_characters_and_no_newlines_are_lost(parts):
    lines = split(*parts)

    assert all(character == "\t" or character >= " " for line in lines for character in line)
    assert not any(0x7F <= ord(character) <= 0x9F for line in lines for character in line)
    whole = b"".join(parts)
    assert whole.count(b"\n") <= len(lines) <= whole.count(b"\n") + 1


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text):
    assert clean(clean(text)) == clean(text)


# --- several commands


def test_results_come_in_the_order_of_the_commands():
    done, _lines = collect(shell("sleep 0.3; exit 3", label="slow"), shell("exit 4", label="quick"), limit=2)

    assert [(finished.label, finished.exit_code) for finished in done] == [("slow", 3), ("quick", 4)]


def test_no_more_than_the_limit_run_at_once(tmp_path):
    script = f"cd {tmp_path}; touch $$; ls | wc -l; sleep 0.1; rm $$"

    _done, lines = collect(*[shell(script, label=str(number)) for number in range(6)], limit=2)

    assert max(int(text) for _label, text in lines) == 2


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(Unavailable, match=r"no-such-program.*installed"):
        one(command("no-such-program"))


def test_ticks_come_also_while_output_floods():
    times: list[float] = []

    run([command("/usr/bin/timeout", "1.5", "/usr/bin/yes")],
        on_line=lambda _label, _text: None, on_tick=lambda: times.append(time.monotonic()))  # fmt: skip

    assert len(times) >= 4
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 1


# --- ending


GRANDCHILDREN = """
import os, subprocess, sys
subprocess.Popen(["sleep", "{word}"])                                   # holds the pipe
subprocess.Popen(["sleep", "{word}"], start_new_session=True)           # left the group
if os.fork() == 0:                                                      # a daemon: also orphaned
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "{word}"])
    os._exit(0)
subprocess.Popen(["sh", "-c", "trap '' TERM HUP INT; sleep {word}; true"], start_new_session=True)
os.wait()
print("ready", flush=True)
"""
FOREVER = GRANDCHILDREN + "import time; time.sleep(1000)"


def test_a_command_over_its_time_is_ended_with_everything_below_it(word):
    done, lines = one(python(FOREVER.format(word=word), timeout=1.5))

    assert lines == ["ready"]
    assert done.timed_out
    assert done.exit_code == -signal.SIGTERM
    assert sleepers(word) == set()


def test_an_exception_of_the_tick_ends_every_tree(word):
    def tick() -> None:
        if len(sleepers(word)) >= 4:
            raise Cancelled("superseded by build 7")

    with pytest.raises(Cancelled, match="superseded"):
        run(
            [python(FOREVER.format(word=word)), shell(f"sleep {word}")],
            limit=2,
            on_line=lambda _label, _text: None,
            on_tick=tick,
        )

    assert sleepers(word) == set()


def test_an_exception_of_the_line_callback_ends_the_tree(word):
    def refuse(_label: str, _text: str) -> None:
        raise Cancelled("no more")

    with pytest.raises(Cancelled):
        run([shell(f"echo line; sleep {word}")], on_line=refuse)

    assert sleepers(word) == set()


def test_what_a_command_leaves_in_the_background_ends_with_it(word):
    done, lines = one(python(GRANDCHILDREN.format(word=word)))

    assert (done.exit_code, done.timed_out, lines) == (0, False, ["ready"])
    assert sleepers(word) == set()


def test_one_commands_end_leaves_its_neighbour_alone(word):
    done, lines = collect(
        python(GRANDCHILDREN.format(word=word), label="a"),
        shell("sleep 0.2 & (setsid sleep 4 &); sleep 4; echo alive", label="b"),
        limit=2,
    )

    assert [finished.exit_code for finished in done] == [0, 0]
    assert ("b", "alive") in lines
    assert sleepers(word) == set()


def test_a_frozen_command_can_be_ended(word):
    done, _lines = one(shell(f"sleep {word} & kill -STOP $$", timeout=0.5))

    assert done.timed_out
    assert sleepers(word) == set()


def test_a_command_that_forks_while_it_is_ended_is_ended(word):
    script = f"trap 'setsid sleep {word} & setsid sleep {word} & wait' TERM; while :; do sleep 0.05; done"

    done, _lines = one(shell(script, timeout=0.5))

    assert done.timed_out
    assert sleepers(word) == set()


def test_what_a_cancel_waits_for_adds_up_to_less_than_two_seconds():
    # until it is seen, until that is looked at, and what a process gets to end by itself
    assert CANCEL_POLL_S + TICK_S + process_tree.GRACE_S < 2


def test_no_zombie_stays():
    before = zombies()

    one(shell("for i in 1 2 3 4 5; do (setsid true &); done; sleep 0.3"))

    assert zombies() <= before


def test_a_command_ends_when_its_supervisor_is_killed(word):
    code = f"""
    from pathlib import Path
    from kennel_core.adapters.process import Command, run
    run([Command("x", ["sleep", "{word}"], Path("/"), {{"PATH": "/usr/bin:/bin"}}, 60)], on_line=print)
    """
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", textwrap.dedent(code)], os.environ)
    until(lambda: sleepers(word))

    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

    until(lambda: not sleepers(word), what="the command ended")


def test_leftovers_of_an_earlier_run_are_found_by_their_environment(word, tmp_path):
    bare = f"cd {tmp_path}; setsid env -i /bin/sleep {word} & cd /; setsid sleep {word}"  # by where it works
    argv = ["/usr/bin/setsid", "/bin/sh", "-c", bare]
    pid = os.posix_spawn(argv[0], argv, {**ENV, "HOME": str(tmp_path / "home")})
    reaper = threading.Thread(target=os.waitpid, args=(pid, 0))
    reaper.start()
    until(lambda: len(sleepers(word)) == 2)

    process_tree.end_left_by(tmp_path)

    reaper.join(timeout=10)
    assert sleepers(word) == set()
