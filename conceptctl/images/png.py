"""What PNG files say of how their pictures were made."""

from __future__ import annotations

import json
from collections.abc import Mapping

from PIL.PngImagePlugin import PngInfo

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF>'
    "</x:xmpmeta>"
)
"""The packet that marks a picture as made by a trained model (IPTC digital source type), in every kind of file."""


def png_info(recipe: Mapping[str, object]) -> PngInfo:
    """Say in a PNG file how it was made, in the three ways in which programs look for it.

    `parameters` is what A1111 writes and other programs show; `conceptctl` is all of it as JSON; the XMP packet marks
    the picture as made by a trained model (IPTC digital source type).
    """
    info = made_by_a_model()
    negative = f"\nNegative prompt: {recipe['negative']}" if recipe["negative"] else ""
    info.add_text(
        "parameters",
        f"{recipe['prompt']}{negative}\nSteps: {recipe['steps']}, Sampler: {recipe['sampler']}, "
        f"CFG scale: {recipe['guidance']}, Seed: {recipe['seed']}, Size: {recipe['size']}, "
        f"Model hash: {str(recipe['base_sha256'])[:10]}, Model: {recipe['base']}",
    )
    info.add_text("conceptctl", json.dumps(recipe, ensure_ascii=False))
    return info


def made_by_a_model() -> PngInfo:
    """What says of every picture that a trained model made it."""
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP)
    return info
