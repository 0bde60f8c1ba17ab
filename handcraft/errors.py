"""The package's own errors: each names what was read, what was found, what was expected and what to do.

The command line prints them as one line and exits with 2; a Python caller catches `HandcraftError`.
"""

import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class HandcraftError(Exception):
    """Base of every error that handcraft raises on purpose.

    A message may quote a file, or a library that quotes one: control characters, which could steer the terminal that it
    is printed to, are written as `\\x1b`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_CONTROL.sub(lambda found: ascii(found[0])[1:-1], message))


class DataError(HandcraftError):
    """A store, an array file or a split that cannot be used as it is."""


class CheckpointError(HandcraftError):
    """A checkpoint that is damaged, or that does not belong to the data it is used with."""


class ConfigError(HandcraftError):
    """A recipe or a command-line choice that makes no sense."""


class TrainingError(HandcraftError):
    """Training stopped: the loss is no longer finite, or the output folder cannot be used."""


class Stopped(HandcraftError):
    """Training was asked to stop by SIGTERM and has saved its state; the command line exits with 143."""


def one_line(error: Exception) -> str:
    """What is printed of an error: its message in one line; of the system's, the file and the reason."""
    if isinstance(error, OSError):
        error = HandcraftError(f"{error.filename or 'file system'}: {error.strerror or error}")
    return " ".join(str(error).split())
