"""torch and transformers for the tests that compare with them; without the test extra `parity` the importing module is skipped.

Import both from here, as `from tests.interop.parity import torch`, so that no test needs a check of its own.
"""

import importlib.util

from tests.requirements import missing

if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
    missing("parity", "torch and transformers come with the extra: pip install '.[parity]'")

import torch
import transformers

# Fields of a small model's config: those of ViTMAEConfig, and with CLIPS of VideoMAEConfig.
TINY = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 3,
    "decoder_intermediate_size": 72,
}
CLIPS = {"num_frames": 4, "tubelet_size": 2}

__all__ = ["CLIPS", "TINY", "torch", "transformers"]
