"""Augmentations of decoded clips, on the accelerator inside the jitted step, with one random key per sample.

Nothing here depends on the number of devices: every random number comes from the key of its own sample. Pixels are uint8 in
RandAugment, then float32 in 0..1 until `normalize`.
"""

from cvmae.augment.color import Color, jitter_color, normalize
from cvmae.augment.distort import Distortion, distort, to_gray
from cvmae.augment.erasing import Erasing, erase
from cvmae.augment.finetune_views import LabeledSpec, labeled_clips, labeled_view, labeled_views
from cvmae.augment.geometry import Crop, center_crop, draw_box, from_planes, planes_to_patches, random_crop, resample
from cvmae.augment.mixing import Mix, mix, multi_hot_targets, soft_targets
from cvmae.augment.pretrain_views import ViewSpec, draw_starts, make_planes, make_views, shared_fraction
from cvmae.augment.randaugment import RandAugment, rand_augment, rand_augment_clips

__all__ = [
    "Color",
    "Crop",
    "Distortion",
    "Erasing",
    "LabeledSpec",
    "Mix",
    "RandAugment",
    "ViewSpec",
    "center_crop",
    "distort",
    "draw_box",
    "draw_starts",
    "erase",
    "from_planes",
    "jitter_color",
    "labeled_clips",
    "labeled_view",
    "labeled_views",
    "make_planes",
    "make_views",
    "mix",
    "multi_hot_targets",
    "normalize",
    "planes_to_patches",
    "rand_augment",
    "rand_augment_clips",
    "random_crop",
    "resample",
    "shared_fraction",
    "soft_targets",
    "to_gray",
]
