"""Pre-training on Kinetics-400.

    python -m cvmae.main --config=configs/k400.py:variant=B/16 --config.data.manifest=k400.csv --workdir=DIR

Not run by us; no accuracy is known. `:runlocal` runs anywhere in under a minute.
"""

from configs import common


def get_config(arg=None):
    args = common.arguments(arg)
    c = common.base(args.variant)
    c.data.stride = 4  # [VideoMAE] 16 x 4
    c.total = "800_epochs"  # [VideoMAE] the shorter of its two schedules, 800 and 1600
    c.optimizer.warmup = "40_epochs"  # [VideoMAE]
    return common.finish(c, args)
