"""Print records for people, or as JSON for programs."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kennel_core import logs

STYLES = {
    "done": "green",
    "live": "green",
    "active": "green",
    "set": "green",
    "missing": "red",
    "unusable": "red",
    "built": "cyan",
    "building": "cyan",
    "queued": "yellow",
    "starting": "yellow",
    "failed": "red",
    "cancelled": "dim",
    "asleep": "dim",
}
WIDE = 1000  # columns, where no terminal limits them

Record = Mapping[str, Any]


def console() -> Console:
    """Make a console on standard output: colours only on a terminal and without NO_COLOR."""
    out = sys.stdout
    return Console(file=out, highlight=False, emoji=False, markup=False, width=None if out.isatty() else WIDE)


def print_json(data: Any) -> None:
    """Print one document."""
    click.echo(json.dumps(data, indent=2))


def print_line(data: Any) -> None:
    """Print one object as one line of JSON."""
    click.echo(json.dumps(data))


def moment(seconds: float | None) -> str | None:
    """Give Unix seconds as RFC 3339 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def rows(records: Sequence[Record], columns: Iterable[str], empty: str) -> None:
    """Print a table of some fields of each record, or the sentence `empty`."""
    names = list(columns)
    if not records:
        click.echo(empty, err=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name.replace("_", " ").upper(), overflow="fold")
    for record in records:
        table.add_row(*(_cell(record[name]) for name in names))
    _print_without_trailing_space(table)


def fields(record: Record) -> None:
    """Print one record, a field a line."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in record.items():
        table.add_row(Text(name.replace("_", " ")), _cell(value))
    _print_without_trailing_space(table)


def show(data: Any, human: Callable[[], None], *, as_json: bool) -> None:
    """Print `data` as JSON, or what `human` prints."""
    if as_json:
        print_json(data)
    else:
        human()


def _cell(value: Any) -> Text:
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    text = logs.escape("-" if value is None or value == "" else str(value))
    return Text(text, style=STYLES.get(text, ""))


def _print_without_trailing_space(table: Table) -> None:
    target = console()
    if target.is_terminal:
        target.print(table)
        return
    with target.capture() as captured:
        target.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
