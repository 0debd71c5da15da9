"""The base of every error that a user can cause and mend."""

from __future__ import annotations

from videovit.messages import ABSENT, printable, problem


class UserError(ValueError):
    """Something outside the program is wrong: a file, a key, a machine. The message says what, and what would be right.

    The command line prints it without a traceback. A subclass exists only where some code catches it by name.

    Args:
        what: the problem, or the whole message.
        where, found, expected, near, hint: see `messages.problem`.
    """

    def __init__(
        self,
        what: object = "",
        *,
        where: object = "",
        found: object = ABSENT,
        expected: str = "",
        near: str = "",
        hint: str = "",
    ) -> None:
        # One argument, so that errors travel between processes by pickle like any other exception.
        text = problem(str(what), where=where, found=found, expected=expected, near=near, hint=hint)
        # Messages name files and classes, and end on terminals and in logs.
        super().__init__(printable(text, keep_lines=True))
