"""Images from bytes that nobody vouches for: the format by content, the size before anything is decoded."""

from __future__ import annotations

import io
import warnings

from modelyard.api.errors import InvalidRequest
from PIL import Image, ImageOps

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
# A progressive JPEG is decoded once for each of its scans, and a scan of a large empty image takes a few bytes. Cameras and
# encoders write about ten.
_MAX_JPEG_SCANS = 100
_SCAN = b"\xff\xda"

# Pillow warns at its own bound and goes on; what warns here is refused.
warnings.simplefilter("error", Image.DecompressionBombWarning)


def decode(data: bytes, max_pixels: int, param: str) -> Image.Image:
    """Returns an image in RGB, upright, its first frame where it has several; transparency is laid on white.

    Takes as long as it takes: call it on a thread. Raises InvalidRequest, naming ``param``.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check(image, data, max_pixels, param)
            image.load()
            return _in_rgb(ImageOps.exif_transpose(image))
    except InvalidRequest:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _refused(f"it has more than {max_pixels} pixels, which is the limit. Send a smaller one", param) from None
    except Exception as error:
        # Pillow's decoders raise whatever hostile bytes make them raise: struct.error, SyntaxError, IndexError …
        raise _refused("it is no whole PNG, JPEG, WebP or GIF image. Send it in one of these formats", param) from error


def _check(image: Image.Image, data: bytes, max_pixels: int, param: str) -> None:
    """Judges an image by its header."""
    if not image.width * image.height:
        raise _refused("it has no pixels. Send another one", param)
    if image.width * image.height > max_pixels:
        size = f"{image.width} × {image.height}"
        raise _refused(f"it has {size} pixels, and {max_pixels} together is the limit. Send a smaller one", param)
    if image.format in {"JPEG", "MPO"} and data.count(_SCAN) > _MAX_JPEG_SCANS:
        raise _refused(f"it is a JPEG of more than {_MAX_JPEG_SCANS} scans. Save it anew", param)


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255 rather than scale
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    page = Image.new("RGB", layer.size, "white")
    page.paste(layer, mask=layer.getchannel("A"))
    return page


def _refused(why: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"The image of '{param}' cannot be used: {why}.", param=param, code="invalid_image")
