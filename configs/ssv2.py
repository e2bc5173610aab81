"""Pre-training on Something-Something V2.

    python -m cvmae.main --config=configs/ssv2.py:variant=B/16 --config.data.manifest=ssv2.csv --workdir=DIR

Not run to its end by us; no accuracy is known. `:runlocal` runs anywhere in under a minute.
"""

from configs import common


def get_config(arg=None):
    args = common.arguments(arg)
    c = common.base(args.variant)
    c.data.stride = 2  # [VideoMAE] 16 x 2: clips are often under 4 s at 12 frames per second
    c.augment.flip = 0.0  # classes name left and right
    c.total = "800_epochs"  # [VideoMAE] the shorter of its two schedules, 800 and 2400
    c.optimizer.warmup = "40_epochs"  # [VideoMAE]
    return common.finish(c, args)
