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


def there_are(names: Sequence[str]) -> str:
    """Returns a sentence that lists what there is to choose from.

    Example:
        >>> there_are(["image", "text"]), there_are(["label"]), there_are([])
        ('There are image, text.', 'There is only label.', 'There are none.')
    """
    if len(names) == 1:
        return f"There is only {names[0]}."
    return f"There are {', '.join(names) or 'none'}."


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, shortened; or its class.

    Example:
        >>> first_line(ValueError("no such shape.\\nSee above.")), first_line(KeyError())
        ('no such shape.', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
