"""A trained network at work outside training: exported programs, and photographs segmented by the folder.

    load_segmenter(uri)                     a run's or checkpoint's network: uint8 images in, label maps out
    load_model(saved, device, precision)    the network alone; MLflow loads a logged model as a Segmenter
    export_network(model, out, file_format="onnx", size=(256, 512))    a file that runs without distseg
    describe_network(saved, multiple=8), describe_weights(saved)       what such a file says of itself
    images_at(uri, every) -> Source                     photographs of a folder, or frames of a video
    segment_all(job, saved, places, run, progress)      their label maps, overlays and confidence; resumes
    shown(job, places, images, count)                   some of them with layers, for a page
    photographs_below(uri), decode_photograph(data, source)            names of photographs; one as 8-bit RGB
    label_image(ids_HW, labels), tinted(image, ids_HW, labels)         class ids in the palette; the photograph tinted

Damaged or unsupported images are a DataError that names them; a missing package of a format is a ConfigError.
"""

from distseg.deployment.chosen import shown
from distseg.deployment.description import describe_network, describe_weights
from distseg.deployment.exporting import check_export, export_network
from distseg.deployment.inputs import images_at
from distseg.deployment.photographs import decode_photograph, label_image, photographs_below, png_bytes, tinted
from distseg.deployment.segmenter import Segmenter, _load_pyfunc, check_classes, load_model, load_segmenter
from distseg.deployment.segmenting import PAGE, TABLE, SegmentedImage, SegmentJob, segment_all

__all__ = [
    "PAGE",
    "TABLE",
    "SegmentJob",
    "SegmentedImage",
    "Segmenter",
    "_load_pyfunc",
    "check_classes",
    "check_export",
    "decode_photograph",
    "describe_network",
    "describe_weights",
    "export_network",
    "images_at",
    "label_image",
    "load_model",
    "load_segmenter",
    "photographs_below",
    "png_bytes",
    "segment_all",
    "shown",
    "tinted",
]
