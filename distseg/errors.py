"""Every error that distseg raises on purpose.

    DistsegError                 one or two lines for a person: what, which value, what to do
    ├── ConfigError              a field of the configuration, or a command-line argument      exit 2
    ├── StorageError             files and S3: credentials, bucket, key, endpoint              exit 1
    ├── DataError                manifest, shard, index, image, label                          exit 1
    ├── CheckpointError          a checkpoint or weights file that cannot be used              exit 1
    ├── TrainingError            training cannot go on (NaN loss, lost workers)                exit 1
    ├── ResourceError            more asked than the cluster can ever have                     exit 1
    └── TrackingError            the MLflow server cannot be used                              exit 1

Each takes one message and nothing else, so that it survives pickling between Ray processes.
Programs print the message without a traceback (`--debug` shows it) and exit with `exit_code`.
"""

import re


class DistsegError(Exception):
    """Every error of distseg; `exit_code` is that of a program which ends by it."""

    exit_code = 1


class ConfigError(DistsegError):
    exit_code = 2


class StorageError(DistsegError):
    pass


class DataError(DistsegError):
    pass


class CheckpointError(DistsegError):
    pass


class TrainingError(DistsegError):
    pass


class ResourceError(DistsegError):
    pass


class TrackingError(DistsegError):
    pass


def first_line(error: BaseException) -> str:
    """Of its message, at most 200 characters: for quoting in a message of one line."""
    return masked((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]


_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#@'\"]+@")


def masked(text: str) -> str:
    """Without the user and password of any address in it: libraries quote what they were given."""
    return _CREDENTIALS.sub("", text)
