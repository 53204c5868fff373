"""Text of strangers, made so that a forge shows it and does nothing with it. Pure.

Output of a build is whatever its author likes. In a comment nothing of it may become markup, HTML, a link, a
mention (which would send mail), a reference to an issue, or turn the direction of what follows.
"""

import unicodedata

INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # also marks that turn the direction
MARKS_MAX = 2  # in a row: more of them are drawn over the lines above and below
CUT = "…"


def shown(text: str, limit: int) -> str:
    r"""Give one line of plain text, at most `limit` characters; what cannot be seen is spelt out.

    >>> shown("a\u202eb\nc", 20)
    'a\\u202eb\\nc'
    """
    spelt = "".join(_visible(text[: limit + 1]))
    return spelt if len(spelt) <= limit else spelt[: limit - len(CUT)] + CUT


def code(text: str, limit: int) -> str:
    """Give HTML that shows one line as code, within a sentence or a cell of a table."""
    return f"<code>{entities(shown(text, limit))}</code>"


def block(lines: list[str], limit: int) -> str:
    """Give HTML that shows lines as they are, each at most `limit` characters."""
    return "<pre>" + "\n".join(entities(shown(line, limit)) for line in lines) + "</pre>"


def entities(text: str) -> str:
    """Write every character but letters, digits and spaces as a number, so that none has a meaning.

    An empty line would end a block of HTML for some readers of Markdown, so it gets a space.
    """
    coded = "".join(one if one == " " or one.isalnum() else f"&#{ord(one)};" for one in text)
    return coded or " "


def _visible(text: str) -> list[str]:
    found, marks = [], 0
    for one in text:
        category = unicodedata.category(one)
        marks = marks + 1 if category in {"Mn", "Me"} else 0
        if category in INVISIBLE or marks > MARKS_MAX:
            found.append(" " if one == "\t" else one.encode("unicode_escape", "surrogatepass").decode())
        else:
            found.append(one)
    return found
