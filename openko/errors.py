"""The one exception for what a person can mend."""


class InputError(Exception):
    """Bad input: the message names the file or field, what was found and what to do.

    The command line prints the message alone and exits with status 2; notebooks show it as the last line.
    Anything else that is raised is a fault of ours and keeps its traceback.
    """


class Interrupted(Exception):
    """Work stopped before its end, on purpose and with its state saved; the same command goes on."""
