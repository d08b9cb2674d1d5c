"""Adaptation to conditions of which there are images but no labels.

    Targets                  this rank's batches of target images, from any step on
    with_low_amplitudes      Fourier adaptation: light and colour of a target image, shapes of a labelled one
    SelfTraining             views of target images to learn from, labelled by the moving average of the network
    spread_by_size           some images of a condition, to adapt to
    recalibrate_on_          batch norm's statistics, taken anew from them
    measure_criteria         how good predictions look on target images, by figures that need no labels
    evaluate_by_condition    an evaluation of a network adapted to each condition: by batch norm's statistics, or Tent

All of it is the same on any number of ranks, and goes on exactly from any checkpoint: choices are functions of the seed
and of positions in the training stream. Labels of target images are read with them and used by nothing.
"""

from distseg.training.adaptation.criteria import measure_criteria
from distseg.training.adaptation.evaluating import evaluate_by_condition
from distseg.training.adaptation.fourier import with_low_amplitudes
from distseg.training.adaptation.self_training import Labelled, SelfTraining, View
from distseg.training.adaptation.statistics import recalibrate_, recalibrate_on_, spread_by_size
from distseg.training.adaptation.targets import Targets

__all__ = [
    "Labelled",
    "SelfTraining",
    "Targets",
    "View",
    "evaluate_by_condition",
    "measure_criteria",
    "recalibrate_",
    "recalibrate_on_",
    "spread_by_size",
    "with_low_amplitudes",
]
