"""What is concluded from a search's records: order, Pareto front, curves, and the report in Markdown.

A trial is judged by its last evaluation, not by its best one, which may be luck.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from distseg.errors import ConfigError
from distseg.evaluation import seeds_difference
from distseg.metric_names import MIOU, MIOU_WORST
from distseg.review import markdown_table, signed, span
from distseg.search import objectives
from distseg.search.records import TrialRecord
from distseg.terminal import visible


def ranked(trials: Iterable[TrialRecord], objective: str) -> list[TrialRecord]:
    """The trials with an evaluation, best first.

    Trials that were trained in full come before those that were stopped, even if one of these had a higher score then.
    """
    judged = [trial for trial in trials if trial.evaluations and trial.status != "failed"]
    finished = max((trial.steps for trial in judged), default=0)
    return sorted(judged, key=lambda t: (t.steps == finished, t.score(objective) or 0.0, -t.number), reverse=True)


def pareto_front(trials: Iterable[TrialRecord], objective: str, second: str) -> list[TrialRecord]:
    """The trials that no other beats in both the objective and the cost, cheapest first."""
    front: list[TrialRecord] = []
    judged = [trial for trial in trials if trial.evaluations and trial.status != "failed"]
    for trial in sorted(judged, key=lambda t: (t.costs[second], -(t.score(objective) or 0.0))):
        if not front or (trial.score(objective) or 0.0) > (front[-1].score(objective) or 0.0):
            front.append(trial)
    return front


def best_so_far(trials: Iterable[TrialRecord], objective: str) -> list[tuple[int, float]]:
    """(optimiser steps spent by all trials, best score until then) after each evaluation, in the order of time."""
    events = sorted(
        (e.time_s, t.trial_id, e.step, objectives.score(e.metrics, objective)) for t in trials for e in t.evaluations
    )
    steps_of: dict[str, int] = {}
    curve: list[tuple[int, float]] = []
    for _, trial_id, step, value in events:
        steps_of[trial_id] = max(steps_of.get(trial_id, 0), step)
        curve.append((sum(steps_of.values()), max(value, curve[-1][1] if curve else value)))
    return curve


def comparable_step(trials: Iterable[TrialRecord]) -> int:
    """The last step that every evaluated trial came to. Later scores would make those that were stopped seem worse."""
    return min((t.steps for t in trials if t.evaluations and t.status != "failed"), default=0)


def random_search(trials: Iterable[TrialRecord], objective: str, max_steps: int) -> list[tuple[int, float]]:
    """(optimiser steps, expected best score) of 1, 2, … of these trials, drawn at random and trained in full.

    A stopped trial counts with its last score, so this is a little less than random search would find.
    """
    scores = sorted(t.score(objective) or 0.0 for t in trials if t.evaluations and t.status != "failed")
    curve = []
    for count in range(1, len(scores) + 1):
        chances = (math.comb(below, count - 1) / math.comb(len(scores), count) for below in range(len(scores)))
        curve.append((count * max_steps, sum(c * s for c, s in zip(chances, scores, strict=True))))
    return curve


def summary(trials: Sequence[TrialRecord], objective: str) -> str:
    """What a search found, in a few sentences."""
    order = ranked(trials, objective)
    if not order:
        return f"None of the {len(trials)} trials was evaluated."
    best, most = order[0], max(trial.steps for trial in order)
    whole = sum(trial.steps == most for trial in order)
    score = f"{best.score(objective) or 0.0:.4f}"
    text = f"Trial {best.number} is the best of {len(trials)} by {objective}: {score}, {format_values(best.params)}."
    if first := next((trial for trial in order if trial.number == 1 and trial is not best), None):
        text += f" Trial 1, the first point to try, has {first.score(objective) or 0.0:.4f}."
    return (
        f"{text} {whole} trials were trained to step {most}. The best of {len(order)} scores is partly luck: whether "
        "this point is better than another is unknown, and several seeds of both tell (--retrain)."
    )


def seeds_to_compare(seeds: Sequence[int], of_search: Sequence[int]) -> tuple[int, ...]:
    """Each of `seeds` once, without those of the search's trainings: the best point was chosen for its luck with them.

    With them, the best of 20 to 50 points that are alike, of three seeds each, would be called a real gain in 11 to
    15 % of the searches (20,000 simulated), not in the 2.5 % that an interval of 95 % promises. Raises ConfigError if
    none is left.
    """
    left = tuple(seed for seed in dict.fromkeys(seeds) if seed not in of_search)
    if seeds and not left:
        shown = " ".join(map(str, seeds))
        unused = max(of_search) + 1
        raise ConfigError(
            f"--retrain {shown}: by these seeds the search chooses the best point, so they cannot judge it; give two "
            f"or more others, such as {unused} {unused + 1}"
        )
    return left


def seeds_verdict(best: Sequence[float], first: Sequence[float], objective: str) -> str:
    """Whether the best point, trained anew with several seeds, scores more than the first: a sentence."""
    difference = seeds_difference(best, first)
    if difference is None:
        num = f"{len(best)} seed{'' if len(best) == 1 else 's'}"
        return f"Whether the best point is better than the first is unknown: {num}, 2 needed."
    shown = f"{signed(difference.value, 4)} (95 % interval over seeds, Welch's t: {span(difference, 4)})"
    reading = "may be chance" if not difference.excludes_0 else "a real gain" if difference.value > 0 else "a real loss"
    return f"{objective} of the best point against the first: {shown}, {reading}, on these test images."


def markdown(
    trials: Sequence[TrialRecord],
    objective: str,
    *,
    second: str | None = None,
    importances: Mapping[str, float] | None = None,
    max_steps: int | None = None,
) -> str:
    """The summary; all trials as a table, best first; what failed and why; how much each parameter mattered.

    With the `max_steps` of a trial, also the best so far against the steps spent, beside random search.
    """
    order = ranked(trials, objective)
    blocks = [
        summary(trials, objective),
        _table(trials, order, objective, second),
        _listed(
            "Failed", [f"trial {trial.number}: {visible(trial.error)}" for trial in trials if trial.status == "failed"]
        ),
        _listed("Taken over", _take_overs(trials)),
    ]
    if importances:
        at = f"at step {comparable_step(order)} of {len(order)} trials"
        title = f"Importance of each parameter (PED-ANOVA {at}; shares of 1, of a few dozen trials a hint)"
        blocks.append(_listed(title, [f"{name}: {value:.2f}" for name, value in importances.items()]))
    if max_steps is not None and len(order) > 1:
        blocks.append(_against_random_search(trials, objective, max_steps))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _table(trials: Sequence[TrialRecord], order: Sequence[TrialRecord], objective: str, second: str | None) -> str:
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    front = pareto_front(trials, objective, second) if second else []
    judged_by = dict.fromkeys((objective, MIOU, MIOU_WORST))
    rows = []
    for trial in [*order, *(trial for trial in trials if trial not in order)]:
        scores = [trial.score(name) for name in judged_by]
        row = [
            str(trial.number),
            *(format_value(trial.params.get(name)) for name in names),
            *("-" if score is None else f"{score:.4f}" for score in scores),
            *([f"{trial.costs[second]:,.4g}" if second in trial.costs else "-"] if second else []),
            str(trial.steps),
            trial.status + (", on the Pareto front" if trial in front else ""),
        ]
        rows.append(row)
    return markdown_table(["trial", *names, *judged_by, *([second] if second else []), "steps", ""], rows, escape=False)


def _take_overs(trials: Sequence[TrialRecord]) -> list[str]:
    number_of = {trial.trial_id: trial.number for trial in trials}
    taken = [(t.step, trial.number, number_of.get(t.trial_id, 0)) for trial in trials for t in trial.took_over]
    return [f"step {step}: trial {number} went on as trial {other}" for step, number, other in sorted(taken)]


def _listed(title: str, items: Sequence[str]) -> str:
    """A title and a list; empty if the list is."""
    return "\n".join([f"{title}:", "", *(f"- {item}" for item in items)]) if items else ""


def _against_random_search(trials: Sequence[TrialRecord], objective: str, max_steps: int) -> str:
    spent = best_so_far(trials, objective)
    rows = []
    for steps, expected in random_search(trials, objective, max_steps):
        found = [best for at, best in spent if at <= steps]
        rows.append([f"{steps:,}", f"{found[-1]:.4f}" if found else "-", f"{expected:.4f}"])
        if steps >= spent[-1][0]:
            break
    header = ["steps spent", f"best {objective} so far", "random search among the same trials, expected"]
    return markdown_table(header, rows, escape=False)


def format_values(params: Mapping[str, object]) -> str:
    """'optim.lr 0.001, model.bins 1,2'."""
    return ", ".join(f"{name} {format_value(value)}" for name, value in params.items())


def format_value(value: object) -> str:
    """A parameter's value as tables and names show it: 0.00123 is '0.00123', (1, 2) is '1,2'."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return (",".join(map(str, value)) or "()") if isinstance(value, list | tuple) else str(value)
