"""What is told to the user: refusals, and the texts that they are made of."""

import os
from collections.abc import Sequence

NAMED = 10  # a note names so many things and counts the others


class Refusal(Exception):
    """A command cannot do what it was asked to; the message says what, where, and what to do."""


class Unfinished(Refusal):
    """An experiment stopped after it had begun, and can be resumed."""


def describe(error: object, path: object = "a file") -> str:
    """Return what a Refusal or an OSError says; `path` is where it was, if the system is silent."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or path}: {error.strerror}"
    return str(error)


def one_line(text: str | os.PathLike) -> str:
    """Return a text or path for messages: on one line, and the same under every locale."""
    text = os.fsencode(text).decode(errors="surrogateescape")
    return text if text.isprintable() else repr(text)[1:-1]


def printable(text: str) -> str:
    """Return lines for a terminal, without the control characters that names of others may hold."""
    lines = (line if line.isprintable() else repr(line)[1:-1] for line in text.split("\n"))
    return "\n".join(lines)


def join_some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def problem_list(name: str, problems: Sequence[str], kind="problems", advice="") -> str:
    """Return one line for one problem; for more, their number and a line for each of the first."""
    if len(problems) == 1:
        return f"{name}: {problems[0]}{advice}"
    more = [f"and {len(problems) - NAMED:,} more"] if len(problems) > NAMED else []
    first = f"{name}: {len(problems):,} {kind}{advice}"
    return "\n  ".join([first, *problems[:NAMED], *more])


def first_line(error: Exception) -> str:
    """Return the first line of an error of another library, not longer than 200 letters."""
    return one_line(str(error).strip().partition("\n")[0][:200])
