"""The base of every error that a user can cause and mend."""


class UserError(ValueError):
    """Something outside the program is wrong: a file, a key, a machine. The message says what, and what would be right.

    The command line prints it without a traceback. Every named error of this package derives from it.
    """
