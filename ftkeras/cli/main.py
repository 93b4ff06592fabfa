"""The `ftkeras` command: finds the verb, parses its flags, turns errors into exit statuses.

TensorFlow is imported only by a verb that needs it, once its flags are known to be right.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from absl import flags

from ftkeras.cli.remarks import remarks_left_out
from ftkeras.console import printable, silenced
from ftkeras.errors import Preempted, TrainingError, UserError, did_you_mean
from ftkeras.signals import Signals
from ftkeras.version import __version__

VERBS = {
    "train": "fine-tune, evaluate and export",
    "extend": "add classes or images to a finished run, without forgetting the old",
    "lr-find": "try rising learning rates on the first phase, and suggest one",
    "doctor": "find faults in machine, data and config that would spoil a run",
    "plan": "show what each phase would train, before anything trains",
    "evaluate": "measure a run's model on its test set",
    "compare": "test whether one of two runs is better, or the difference is noise",
    "soup": "average the weights of finished runs into one model",
    "robustness": "measure a run's model on images with noise, blur, bad weather, other framing",
    "predict": "classify files or texts with a run's model",
    "search": "rank pictures by a text, with a run of the task alignment",
    "export": "write a run's model as a SavedModel for TF Serving",
    "report": "write the HTML page of a run, or of several side by side",
    "cache": "list what is kept from run to run, and remove what is old",
    "backbones": "list the backbones",
    "init": "write a commented config to start from",
}
_MAKERS = ("train", "extend", "soup", "export", "report", "init")
"""Verbs that write a file or a folder; the others print their result."""
_OBJECTS_BETWEEN_COLLECTIONS = 20_000
EXIT_FAILED, EXIT_USER_ERROR, EXIT_PREEMPTED, EXIT_INTERRUPTED = 1, 2, 75, 130

HELP = """ftkeras {version}: fine-tune pretrained Keras backbones

Usage: ftkeras VERB [ARGUMENTS] [--FLAG=VALUE ...]

Verbs:
{verbs}

Start:    ftkeras init my.yaml --data=photos/         (a folder with a folder per class)
          ftkeras init my.yaml --data=reviews.csv     (a table with a column of texts)
          ftkeras init my.yaml --data=pairs.csv       (a table of pictures with words)
          ftkeras train --config=my.yaml --out=runs/my
Details:  ftkeras VERB --help

Exit status: 0 done, 1 failed, 2 wrong input, 75 stopped by SIGTERM, 130 interrupted.
"""


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits: the console script's entry point."""
    if hasattr(signal, "SIGUSR1"):  # makes a training save; before, it would end the process
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # TensorFlow and Keras make millions of lasting objects. Searching them for garbage at Python's
    # usual rate takes a second of a short run, and another second at the end.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    _open_closed_streams()
    with remarks_left_out():
        try:
            status = main(sys.argv[1:] if argv is None else argv)
        except KeyboardInterrupt as stop:  # a second one, during the handling of the first
            status = _stopped(stop)
        with contextlib.suppress(Exception):  # the output may be closed
            sys.stdout.flush()
        for number in (signal.SIGINT, signal.SIGTERM):  # all is done; a stop cuts what follows
            signal.signal(number, lambda *_: os._exit(status))
    gc.freeze()
    sys.exit(status)


def _open_closed_streams() -> None:
    """Opens standard streams that are closed (`2>&-`) on nothing.

    Otherwise the next file that is opened gets the number, and with it what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free, so this stream's
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def main(arguments: Sequence[str]) -> int:
    """Runs one verb and returns the exit status."""
    try:
        with Signals() as signals, signals.stop_over_errors():
            return _dispatch(list(arguments))
    except UserError as error:
        _say("error", str(error))
        return EXIT_USER_ERROR
    except TrainingError as error:
        _say("failed", str(error))
        return EXIT_FAILED
    except KeyboardInterrupt as stop:
        return _stopped(stop)
    except BrokenPipeError:  # the reader of the output has ended, as in `ftkeras backbones | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:
        from ftkeras import system_errors

        _say("failed", system_errors.describe(error))
        return EXIT_FAILED


def _stopped(stop: KeyboardInterrupt) -> int:
    """Prints in one line what stopped the command, and returns the exit status."""
    preempted = isinstance(stop, Preempted)
    print(f"\nftkeras: {'stopped by SIGTERM' if preempted else 'interrupted'}", file=sys.stderr)
    return EXIT_PREEMPTED if preempted else EXIT_INTERRUPTED


def _say(what: str, message: str) -> None:
    """Prints one line, even if the message quotes odd names."""
    plain = printable(message)
    short = plain if len(plain) <= 1000 else f"{plain[:1000]}..."
    print(f"ftkeras: {what}: {short}", file=sys.stderr)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "-help", "help"):
        verbs = "\n".join(f"  {verb:10} {what}" for verb, what in VERBS.items())
        print(HELP.format(version=__version__, verbs=verbs), end="")
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        known = ", ".join(VERBS)
        raise UserError(f"no such verb {verb!r}.{did_you_mean(verb, VERBS)} Verbs: {known}.")
    module = importlib.import_module(f"ftkeras.cli.{verb.replace('-', '_')}")
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may follow arguments
    module.define(values)
    what = "errors only" if verb in _MAKERS else "the result and errors only"
    flags.DEFINE_boolean("quiet", False, f"print {what}", flag_values=values)
    if any(argument in ("-h", "--help", "-help") for argument in rest):
        print(_help(verb, module, values), end="")
        return 0
    try:
        positional = values([verb, *rest])[1:]
    except flags.UnrecognizedFlagError as error:
        guess = did_you_mean(error.flagname, values)
        if "config" in values and not guess:
            guess = " A field of the config: --set FIELD=VALUE, such as --set phases[0].epochs=3."
        raise UserError(
            f"{verb}: no flag --{error.flagname}.{guess} See `ftkeras {verb} --help`."
        ) from None
    except (flags.Error, OSError, UnicodeError) as error:  # --flagfile reads a file
        raise UserError(f"{verb}: {error}. See `ftkeras {verb} --help`.") from None
    if not values.quiet:
        return int(module.main(values, positional))
    with silenced(*((1, 2) if verb in _MAKERS else (2,))):
        return int(module.main(values, positional))


def _help(verb: str, module: ModuleType, values: flags.FlagValues) -> str:
    rows = []
    for name in values:
        flag = values[name]
        default = "" if flag.default in (None, [], False) else f" (default {flag.default})"
        placeholder = "" if flag.boolean else "=..."
        text = " ".join(flag.help.split()).removesuffix(
            "; repeat this option to specify a list of values"
        )
        rows.append(f"  --{name + placeholder:16} {text}{default}")
    described = "\n".join(rows) or "  none"
    return f"ftkeras {verb}: {VERBS[verb]}\n\n{module.USAGE}\nFlags:\n{described}\n"
