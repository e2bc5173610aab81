"""Pre-training on HMDB51, from one of its official splits.

    python -m cvmae.main --config=configs/hmdb51.py:variant=B/16 --config.data.manifest=hmdb51_split1.csv --workdir=DIR

No recipe for HMDB51 has been published for this size: this is UCF101's, another small set of short clips, with VideoMAEv2's stride of 2
for HMDB51. Not run by us; no accuracy is known. `:runlocal` runs anywhere in under a minute.
"""

from configs import common, ucf101


def get_config(arg=None):
    args = common.arguments(arg)
    c = common.base(args.variant)
    ucf101.small_set(c)
    c.data.stride = 2  # [VideoMAEv2] its HMDB51 fine-tuning
    return common.finish(c, args)
