"""What the demo tells, chapter by chapter, and what it tells it with."""

import itertools
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parents[3]
STACK = ROOT / ".kennel"
HOME = STACK / "demo"

console = Console(highlight=False, soft_wrap=True)
_chapters = itertools.count(1)


class Surprise(Exception):
    """The demo saw something that should not be."""


def check(condition: object, what: str) -> None:
    if not condition:
        raise Surprise(what)
    console.print(f"  [green]✓[/] {what}")


def chapter(text: str) -> None:
    """Begin the next chapter."""
    title(f"{next(_chapters)}. {text}")


def title(text: str) -> None:
    console.print(f"\n[bold]{text}[/]")


def say(text: str) -> None:
    """Print a line as it is, cut to the width of a terminal."""
    console.print(f"  {text}"[: console.width - 1 if console.is_terminal else None], markup=False)
