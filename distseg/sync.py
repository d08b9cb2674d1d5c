"""python -m distseg.sync RUN_URI [--uri MLFLOW] [--experiment NAME]

Sends a run to the tracking server, as far as the server does not have it: the MLflow run itself, the metrics with the
times at which they were measured, and, if the run has ended, its tables, plots, pictures, report, tags, status and
model. All of it is read from RUN_URI, the run's directory, as `train` printed it. Nothing is sent twice. Exit code 0:
the server has everything.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from distseg import cli, tracking
from distseg.errors import ConfigError, TrackingError
from distseg.runs import RUNNING, Run, Sent, send_run
from distseg.terminal import visible

PROG = "python -m distseg.sync"


@dataclass(frozen=True)
class Options:
    run: tyro.conf.Positional[str]
    """The directory of the run: a path or s3:// URI."""
    uri: str = ""
    """Send it to this MLflow server instead of the run's own, tracking.uri. The run keeps its own for later."""
    experiment: str = ""
    """Send it to this experiment instead of the run's own, as when that was deleted."""


def main(arguments: Sequence[str]) -> int:
    options = cli.parse(Options, arguments, prog=PROG, description=__doc__ or "")
    run = Run.read(options.run)
    experiment = options.experiment or run.experiment
    if options.uri:
        run.set_tracking(tracking.checked_uri("--uri", options.uri), experiment)
    elif run.is_tracked:
        run.set_tracking(tracking.checked_uri(f"{run.uri}: tracking_uri", run.tracking_uri), experiment)
    if not run.is_tracked:
        raise ConfigError(f"{run.uri}: was trained with tracking.uri off; name a server with --uri")
    try:
        sent = send_run(run)
    except TrackingError as error:
        said = f"error: {error}; once it takes the run, or with --uri for another server, do this again"
        print(visible(said), file=sys.stderr)
        return error.exit_code
    show(run, sent)
    return 0


def show(run: Run, sent: Sent) -> None:
    """Prints one line for each kind of thing that was sent."""
    cli.say(f"MLflow run  {sent.run_id}{' (created)' if sent.is_new else ''}")
    if sent.num_values:
        cli.say(f"sent        {sent.num_values} values of metrics")
    if sent.num_pictures:
        cli.say(f"sent        {sent.num_pictures} pictures of evaluations")
    if sent.files:
        cli.say(f"sent        {', '.join(sent.files)}")
    if sent.is_ended:
        cli.say(f"sent        status {run.status}")
    if sent.logged_network.model_uri:
        cli.say(f"model       {sent.logged_network.model_uri}")
    if not (sent.num_values or sent.num_pictures or sent.is_ended):
        print("all was there")
    if run.status == RUNNING:
        cli.say(f"not ended   still training, or killed: python -m distseg.train --resume {run.uri} goes on with it")
    cli.say(f"open it     {tracking.run_link(run.tracking_uri, sent.run_id, run.experiment)}")


if __name__ == "__main__":
    cli.run(main)
