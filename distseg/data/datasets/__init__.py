"""The data sets that `distseg.pack` knows: each file of this folder defines one value, `DATASET`.

    names()                      their names, which are the names of their files, sorted
    find(name)                   the data set of that name, or a user's own as `module:name`
    are_frames(name)             whether its images may be frames of a drive, which resemble each other
    DataSet                      what a data set says about itself, see below
    same                         for its `to_cityscapes`

In come files of a raw data set (or nothing, for one that is generated), out come `distseg.data.Sample`s in a
`LabelSpace`. A file added here, or a module of the user's, needs no other change: the program's sub-command, its
options and its --help follow from the `DataSet`. `distseg.data.raw` has tools for finding and reading files.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distseg import plugins
from distseg.data import LabelSpace, Sample
from distseg.errors import ConfigError

__all__ = ["DataSet", "are_frames", "find", "names", "same"]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A raw data set: what it is called, where its files lie, and how they become samples."""

    name: str
    """The same as its file's. Manifests carry it."""
    layout: str
    """Which files are expected below the root, for --help: the module's docstring."""
    labels: Callable[[str], LabelSpace]
    """Of a root. Its label maps use these classes."""
    samples: Callable[..., Iterable[Sample]]
    """Of (root, split), or, where there are `options`, of (root, split, options). Cheap: it lists, it does not decode.
    Raises DataError for a split or a layout that it does not know."""
    options: type | None = None
    """A frozen dataclass whose fields become flags of the sub-command; their docstrings become its help."""
    splits: tuple[str, ...] | Callable[..., tuple[str, ...]] = ("train", "val")
    """Those packed unless --splits names others; or a function of the arguments of `labels`, and of the options, that
    finds out which there are."""
    splits_help: str = "Those to pack."
    has_files: bool = True
    """False: it is generated, so it has neither --root nor --splits."""
    are_frames: bool = True
    """Whether images of one `sequence` are frames of one drive: then scores are told with the doubt that this leaves.
    False: all are single photographs, whatever their `sequence` says."""
    conditions: tuple[str, ...] = ("all",)
    """Those that its samples can have. Empty: its files decide."""
    to_cityscapes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Label space -> class -> the class of Cityscapes that means the same, for --relabel. Others become void."""

    is_named_by_labels: bool = False
    """Manifests carry the name of its label space, which the user gave it, instead of its own."""
    recipe: str = "auto"
    """What to train on it first."""
    tars: Callable[[str], Mapping[str, list[str]]] | None = None
    """Of a root: the tars of each split, if its files are shards that can be used where they are."""
    relabel_targets: tuple[LabelSpace, ...] = ()
    """Label spaces that --relabel offers for other data sets, by their names."""

    def default_splits(self, root: str, options: Any = None) -> tuple[str, ...]:
        return self.splits(root, *self._given(options)) if callable(self.splits) else self.splits

    def samples_of(self, root: str, split: str, options: Any = None) -> Iterable[Sample]:
        """The samples of a split; `options` is a value of the class `options`, by default with its defaults."""
        return self.samples(root, split, *self._given(options))

    def _given(self, options: Any) -> tuple[Any, ...]:
        return () if self.options is None else (self.options() if options is None else options,)


def same(classes: str) -> dict[str, str]:
    """Class -> class, for `to_cityscapes`, of those that go by the same name there; `classes` are divided by spaces."""
    return {name: name for name in classes.split()}


def names() -> tuple[str, ...]:
    return plugins.names(__name__)


def find(name: str) -> DataSet:
    """Raises ConfigError for a name that is neither in this folder nor a `module:name` of a `DataSet`."""
    found = plugins.find("data set", __name__, "DATASET", name, kind="DATASET")
    if not isinstance(found, DataSet):
        raise ConfigError(f"data set {name!r}: a {type(found).__name__}, must be a distseg.data.datasets.DataSet")
    return found


def are_frames(name: str) -> bool:
    """Of a data set by its name in a manifest. True for one that is not in this folder: nothing else is known of it."""
    return name not in names() or find(name).are_frames
