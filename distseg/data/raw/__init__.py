"""Tools for reading raw data sets, from a directory or from S3: what a file of `distseg.data.datasets` is built from.

    home, place, folders        where below the given root the data set begins
    find, pairs                 the files of a folder; photographs paired with their label maps, none left over
    sample                      a pair as a `Sample`, whose `load` reads and checks both files
    read_ids, decode            a label PNG as raw ids (H, W); any image, decoded whole
    json_at, parse_classes, bit_palette     what a user wrote about classes; colours for those without

Roots and files are URIs: directories or s3:// prefixes. A file that is missing, unreadable or of the wrong kind is a
DataError that names it.
"""

from distseg.data.raw.classes import bit_palette, json_at, parse_classes
from distseg.data.raw.files import Files, Pair, find, folders, home, pairs, place, places
from distseg.data.raw.images import Ids, bit_depth, decode, is_16_bit_rgb, load_pair, plain_key, read_ids, sample

__all__ = [
    "Files",
    "Ids",
    "Pair",
    "bit_depth",
    "bit_palette",
    "decode",
    "find",
    "folders",
    "home",
    "is_16_bit_rgb",
    "json_at",
    "load_pair",
    "pairs",
    "parse_classes",
    "place",
    "places",
    "plain_key",
    "read_ids",
    "sample",
]
