"""Views of a decoded clip, made on the accelerator inside the jitted step, with one key a sample.

Nothing here depends on the number of devices: every random number comes from the key of its own sample. Pixels are uint8 in
RandAugment, then float32 in 0..1 until `standardise`.
"""

from cvmae.augment.color import Color, jitter_color, standardise
from cvmae.augment.erasing import Erasing, erase
from cvmae.augment.finetune_views import LabelledSpec, labelled_view, labelled_views
from cvmae.augment.geometry import Crop, centre_crop, draw_box, random_crop, resample
from cvmae.augment.mixing import Mix, mix, soft_targets
from cvmae.augment.pretrain_views import ViewSpec, make_views
from cvmae.augment.randaugment import RandAugment, rand_augment, rand_augment_clips

__all__ = [
    "Color",
    "Crop",
    "Erasing",
    "LabelledSpec",
    "Mix",
    "RandAugment",
    "ViewSpec",
    "centre_crop",
    "draw_box",
    "erase",
    "jitter_color",
    "labelled_view",
    "labelled_views",
    "make_views",
    "mix",
    "rand_augment",
    "rand_augment_clips",
    "random_crop",
    "resample",
    "soft_targets",
    "standardise",
]
