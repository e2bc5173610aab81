"""Views of a decoded clip, made on the accelerator inside the jitted step, with one key a sample.

Nothing here depends on the number of devices: every random number comes from the key of its own sample. Pixels are float32
in 0..1 until `standardise`.
"""

from cvmae.augment.color import Color, jitter_color, standardise
from cvmae.augment.geometry import Crop, centre_crop, draw_box, random_crop, resample
from cvmae.augment.views import ViewSpec, make_views

__all__ = [
    "Color",
    "Crop",
    "ViewSpec",
    "centre_crop",
    "draw_box",
    "jitter_color",
    "make_views",
    "random_crop",
    "resample",
    "standardise",
]
