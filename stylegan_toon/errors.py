"""The one exception a person's mistake ends in, and how it quotes."""


class ToonError(Exception):
    """A mistake the user can mend.

    The message is one sentence that says what is wrong and what to do. The command line prints it
    and ends with exit code 2; the library raises it.
    """


def short(value: object, most: int = 60) -> str:
    """What a stranger's file says, fit for a sentence: one line of at most ``most`` printable characters."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(str(value).split()))
    return text if len(text) <= most else text[: most - 1] + "…"
