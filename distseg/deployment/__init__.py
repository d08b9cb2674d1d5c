"""A trained network at work outside training: exported programs, and photographs segmented by the folder.

    export_network(model, out, file_format="onnx", size=(256, 512))    a file that runs without distseg
    photographs_below(uri), decode_photograph(data, source)            names of photographs; one as 8-bit RGB
    label_image(ids_HW, labels), tinted(image, ids_HW, labels)         class ids in the palette; the photograph tinted

Damaged or unsupported images are a DataError that names them; a missing package of a format is a ConfigError.
"""

from distseg.deployment.exporting import check_export, export_network
from distseg.deployment.photographs import decode_photograph, label_image, photographs_below, png_bytes, tinted

__all__ = [
    "check_export",
    "decode_photograph",
    "export_network",
    "label_image",
    "photographs_below",
    "png_bytes",
    "tinted",
]
