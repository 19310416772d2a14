"""The one exception a person's mistake ends in."""


class ToonError(Exception):
    """A mistake the user can mend.

    The message is one sentence that says what is wrong and what to do. The command line prints it
    and ends with exit code 2; the library raises it.
    """
