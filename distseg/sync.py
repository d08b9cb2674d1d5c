"""python -m distseg.sync RUN_URI [--uri MLFLOW]

Sends what the tracking server has not of a run: the MLflow run itself if the server was never there, metrics with the
times they were measured at, and of a run that has ended its tables, plots, pictures, report, tags, status and model.
All of it is read from the run's directory, as `train` printed it. Doing it again sends nothing twice. Exit code 0: all
is there.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from distseg import cli, tracking
from distseg.errors import ConfigError, TrackingError
from distseg.runs import RUNNING, Run, Sent, send_run

PROG = "python -m distseg.sync"


@dataclass(frozen=True)
class Wanted:
    run: tyro.conf.Positional[str]
    """The directory of the run: a path or s3:// URI."""
    uri: str = ""
    """Another MLflow server than that of the run's tracking.uri; the run itself stays with its own."""


def main(arguments: Sequence[str]) -> int:
    wanted = cli.parse(Wanted, arguments, prog=PROG, description=__doc__ or "")
    run = Run.read(wanted.run)
    if wanted.uri:
        run.set_tracking(tracking.checked_uri("--uri", wanted.uri), run.experiment)
    if not run.is_tracked:
        raise ConfigError(f"{run.uri}: was trained with tracking.uri off; name a server with --uri")
    try:
        sent = send_run(run)
    except TrackingError as error:
        print(
            f"error: {error}; once it takes the run, or with --uri for another server, do this again", file=sys.stderr
        )
        return error.exit_code
    show(run, sent)
    return 0


def show(run: Run, sent: Sent) -> None:
    """One line for each kind of thing that was sent."""
    print(f"MLflow run  {sent.run_id}{' (created)' if sent.is_new else ''}")
    if sent.num_values:
        print(f"sent        {sent.num_values} values of metrics")
    if sent.num_pictures:
        print(f"sent        {sent.num_pictures} pictures of evaluations")
    if sent.files:
        print(f"sent        {', '.join(sent.files)}")
    if sent.is_ended:
        print(f"sent        status {run.status}")
    if sent.logged_network.model_uri:
        print(f"model       {sent.logged_network.model_uri}")
    if not (sent.num_values or sent.num_pictures or sent.is_ended):
        print("all was there")
    if run.status == RUNNING:
        print(f"not ended   still training, or killed: python -m distseg.train --resume {run.uri} goes on with it")
    print(f"open it     {tracking.run_link(run.tracking_uri, sent.run_id, run.experiment)}")


if __name__ == "__main__":
    cli.run(main)
