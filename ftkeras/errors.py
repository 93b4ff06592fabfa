"""What ftkeras raises on purpose."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """What the user gave cannot work: one plain message says what, where, and what to do.

    The command line prints the message alone, without a traceback, and exits with status 2.

    Example:
        >>> raise UserError("data.path: no folder 'photo'. Check the spelling.")
        Traceback (most recent call last):
        ...
        ftkeras.errors.UserError: data.path: no folder 'photo'. Check the spelling.
    """


class TrainingError(RuntimeError):
    """Training went wrong in a way that the run's record explains; exits with status 1."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; what was trained is saved, and `train` resumes it. Exits with status 130.

    A plain KeyboardInterrupt that has passed through `exec` makes Python end by SIGINT instead.
    """


class Preempted(KeyboardInterrupt):
    """SIGTERM came; what was trained is saved, and `train` resumes it. Exits with status 75."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns `" Did you mean 'X'?"` for the nearest of `known`, or an empty string.

    Example:
        >>> did_you_mean("resnet5O", ["ResNet50", "VGG16"])
        " Did you mean 'ResNet50'?"
    """
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean {by_lower[near[0]]!r}?" if near else ""


def there_are(names: Sequence[str], noun: str) -> str:
    """Returns a sentence that lists what there is to choose from.

    Args:
        names: What there is.
        noun: What one of them is.

    Example:
        >>> there_are(["a", "b", "c"], "kind"), there_are(["label"], "column")
        ('The kinds are a, b and c.', 'The only column is label.')
        >>> there_are([], "metric")
        'There is no metric.'
    """
    if not names:
        return f"There is no {noun}."
    *others, last = names
    if not others:
        return f"The only {noun} is {last}."
    return f"The {noun}s are {', '.join(others)} and {last}."


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, shortened; or its class.

    Example:
        >>> first_line(ValueError("no such shape.\\nSee above.")), first_line(KeyError())
        ('no such shape.', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
