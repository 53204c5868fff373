"""Secrets are found in text however they are written, and wherever a chunk ends."""

import base64
import json
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kennel_core.redaction import LINE_MAX, REDACTED, Redactor

SECRET = 'p@ss/wörd+ with "quotes" & more=?'
PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCBKcwggSjAgEAAoIBAQC7\nab==\n-----END KEY-----\n"


def chunks(redactor: Redactor, text: str, size: int) -> str:
    shown = [redactor.feed(text[start : start + size]) for start in range(0, len(text), size)]
    return "".join(shown) + redactor.end()


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_secret_is_replaced_in_each_way_of_writing_it(written: str, size: int) -> None:
    redactor = Redactor([SECRET])

    assert redactor.redact(f"<{written}>") == f"<{REDACTED}>"
    assert chunks(redactor, f"a {written}, {written}\nb", size) == f"a {REDACTED}, {REDACTED}\nb"


@pytest.mark.parametrize("before", ["", "a", "user:", "it's"])
@pytest.mark.parametrize("after", ["", "x", "yz", "\n"])
def test_a_secret_is_replaced_within_base64_whatever_is_around_it(before: str, after: str) -> None:
    redactor = Redactor(["hunter2hunter2~~??"])
    data = f"{before}hunter2hunter2~~??{after}".encode()

    for coded in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()):
        for form in (coded, coded.rstrip("=")):
            shown = chunks(redactor, f"Authorization: Basic {form}\n", 5)
            assert REDACTED in shown
            left = shown.removeprefix("Authorization: Basic ").replace(REDACTED, "")
            assert len(left.strip()) <= 4 + len(before + after) * 2


def test_bytes_are_replaced_as_text_and_as_base64() -> None:
    binary = bytes(range(200, 256))
    redactor = Redactor([b"as text as well", binary])

    assert redactor.redact("as text as well") == REDACTED
    assert base64.b64encode(binary).decode()[8:-8] not in redactor.redact(
        base64.b64encode(b"x" + binary).decode()
    )


def test_each_long_line_of_a_key_is_replaced_and_its_frame_stays() -> None:
    redactor = Redactor([PEM])
    shown = chunks(redactor, PEM, 11)

    assert shown == f"-----BEGIN KEY-----\n{REDACTED}\n{REDACTED}\nab==\n-----END KEY-----\n"
    assert REDACTED in redactor.redact(json.dumps(PEM))
    assert REDACTED in redactor.redact(base64.b64encode(PEM.encode()).decode())


def test_words_too_short_to_be_secrets_stay() -> None:
    assert Redactor(["", "a", "12345", "\n\n"]).redact("a 12345") == "a 12345"
    assert Redactor([]).redact("all") == "all"
    assert chunks(Redactor([]), "all", 1) == "all"


def test_of_two_secrets_where_one_begins_the_other_the_longer_is_replaced() -> None:
    redactor = Redactor(["abcabc", "abcabcdef", "bcabcxyz"])

    for size in (1, 4, 100):
        assert (
            chunks(redactor, "abcabcdef abcabcde abcabcxyz", size) == f"{REDACTED} {REDACTED}de {REDACTED}xyz"
        )


def test_nothing_is_held_back_longer_than_it_could_become_a_secret() -> None:
    redactor = Redactor(["secret-value"])

    assert redactor.feed("a secret-val") == "a "
    assert redactor.feed("id") == "secret-valid"
    assert redactor.feed("a line secret-\n") == "a line secret-\n"
    assert redactor.feed("secret") == ""
    assert redactor.end() == "secret"


@given(
    secrets=st.lists(st.text("abX%", min_size=6, max_size=9), min_size=1, max_size=4),
    text=st.text("abX%\n", max_size=80),
    size=st.integers(1, 20),
)
@example(secrets=["aaaaaaa"], text="a" * 40, size=3)
def test_where_chunks_end_makes_no_difference(secrets: list[str], text: str, size: int) -> None:
    redactor = Redactor(secrets)
    shown = chunks(redactor, text, size)

    assert shown == redactor.redact(text)
    assert not any(secret in shown for secret in secrets)


def test_a_secret_of_a_megabyte_costs_no_more_than_its_first_part() -> None:
    long = "".join(f"{number:08x}" for number in range(2**17))
    redactor = Redactor([long])

    assert chunks(redactor, long[:LINE_MAX] + "\n", 4096) == REDACTED * (LINE_MAX // 1024) + "\n"


def test_the_cost_is_in_proportion_to_the_text() -> None:
    redactor = Redactor([f"{number:032x}" for number in range(20)])

    def seconds(lines: int) -> float:
        text = "".join(f"{number} building /nix/store/{'0' * 40}\n" for number in range(lines))
        best = []
        for _ in range(3):
            began = time.process_time()
            chunks(redactor, text, 4096)
            best.append(time.process_time() - began)
        return min(best)

    assert seconds(20_000) < 40 * seconds(2_000)  # ten times, and room for a busy machine
