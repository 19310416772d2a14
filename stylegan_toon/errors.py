"""The exception for a user's mistakes, and how messages quote what a user or a file gave."""


class ToonError(Exception):
    """A mistake that the user can correct.

    The message is one sentence that says what is wrong and what to do. The library raises it; the command line prints
    it and ends with exit code 2.
    """


class WriteError(ToonError):
    """Results cannot be written, such as to a full disk: whatever would come next would fail as well."""


def short(value: object, most: int = 60) -> str:
    """A value from outside, safe to quote in a message: one line of at most ``most`` printable characters."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(str(value).split()))
    return text if len(text) <= most else text[: most - 1] + "…"
