"""Tools for reading raw data sets, from a directory or from S3: what a file of `distseg.data.datasets` is built from.

    home, place, folders        where below the given root the data set begins
    names_in, find, pairs       the files of a folder; photographs paired with their label maps, none left over
    sample                      a pair as a `Sample`, whose `load` reads and checks both files
    tar_samples                 the samples of a tar that others wrote
    read_photograph, labelled   the parts of that `load`, for files that lie elsewhere
    read_ids, ids_of            a label PNG, of ids or of colours, as raw ids (H, W); the same of a file's content
    json_at, parse_classes, bit_palette     what a user wrote about classes; colours for those without

Roots and files are URIs: directories or s3:// prefixes. A file that is missing, unreadable or of the wrong kind is a
DataError that names it.
"""

from distseg.data.images import decode
from distseg.data.raw.classes import bit_palette, json_at, parse_classes, parse_colour
from distseg.data.raw.files import Files, Pair, find, folders, home, is_left_behind, names_in, pairs, place, places
from distseg.data.raw.images import (
    Colours,
    DrawnOn,
    Ids,
    Photograph,
    bit_depth,
    ids_of,
    is_16_bit_rgb,
    labelled,
    labels_drawn_on,
    load_pair,
    plain_key,
    read_ids,
    read_photograph,
    sample,
)
from distseg.data.raw.tars import Place, TarSample, tar_samples

__all__ = [
    "Colours",
    "DrawnOn",
    "Files",
    "Ids",
    "Pair",
    "Photograph",
    "Place",
    "TarSample",
    "bit_depth",
    "bit_palette",
    "decode",
    "find",
    "folders",
    "home",
    "ids_of",
    "is_16_bit_rgb",
    "is_left_behind",
    "json_at",
    "labelled",
    "labels_drawn_on",
    "load_pair",
    "names_in",
    "pairs",
    "parse_classes",
    "parse_colour",
    "place",
    "places",
    "plain_key",
    "read_ids",
    "read_photograph",
    "sample",
    "tar_samples",
]
