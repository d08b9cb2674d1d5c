"""Formats of MLflow that it does not document, and what happens when a later MLflow changes them.

    the state of its page of runs     written by saved_view.py
    an experiment's kind              written by client.py when it creates one
    the names of logged images        read here, to find out which pictures a run has already

All were read from MLflow 3 (3.5 to 3.17). What depends on them is best effort: with an MLflow that is not known it is
left out, with one line in the log, and nothing else of a run is affected.
"""

import logging
import re
from collections.abc import Iterable
from functools import cache
from importlib import metadata

log = logging.getLogger(__name__)

KNOWN_MAJOR = 3
KIND_OF_EXPERIMENT = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of a new experiment: it holds trainings. MLflow 3.17 opens it in its mode for language models all the same,
unless the address says otherwise, as those that distseg prints do."""

# images/overlay~night+step+20+timestamp+1795864098050+<uuid>.png; earlier versions have % for + and # for ~
_IMAGE_FILE = re.compile(r"images/(?P<name>.+)[+%]step[+%](?P<step>\d+)[+%]timestamp[+%]\d+[+%][^+%]+\.png")
_SMALL_COPY = re.compile(r"images/.+\.webp")  # MLflow makes one of each


def knows_page_of_runs() -> bool:
    """Whether this MLflow's page of runs takes the state that saved_view.py writes. Logs one line if not."""
    return _is_known_version(mlflow_version())


def mlflow_version() -> str:
    return metadata.version("mlflow")


@cache  # one line for each process
def _is_known_version(version: str) -> bool:
    if version.partition(".")[0] == str(KNOWN_MAJOR):
        return True
    log.warning("MLflow %s: the view to compare runs is left out, as only the page of MLflow 3 is known", version)
    return False


def pictures_in(paths: Iterable[str]) -> set[tuple[str, int]]:
    """(name, step) of each picture that `log_image` stored, from the artifact paths below images/.

    Logs one line if a name is not as expected; then that picture counts as absent, and may be sent twice.
    """
    found, unknown = set(), []
    for path in paths:
        if match := _IMAGE_FILE.fullmatch(path):
            found.add((re.sub("[~#]", "/", match["name"]), int(match["step"])))
        elif not _SMALL_COPY.fullmatch(path):
            unknown.append(path)
    if unknown:
        log.warning("MLflow %s: %s: unknown kind of name, so pictures may be sent twice", mlflow_version(), unknown[0])
    return found
