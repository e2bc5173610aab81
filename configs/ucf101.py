"""Pre-training on UCF101, from one of its official splits.

    python -m cvmae.main --config=configs/ucf101.py:variant=B/16 --config.data.manifest=ucf101_split1.csv --workdir=DIR

Not run by us; no accuracy is known. `:runlocal` runs anywhere in under a minute.
"""

from configs import common


def get_config(arg=None):
    args = common.arguments(arg)
    c = common.base(args.variant)
    small_set(c)
    return common.finish(c, args)


def small_set(c):
    """VideoMAE's recipe for UCF101: a smaller batch, a longer run, a lower masking ratio."""
    c.data.stride = 4  # [VideoMAE] 16 x 4
    c.data.eval_split = "test"
    c.batch_size = 192  # [VideoMAE] 8 x 24
    c.total = "3200_epochs"  # [VideoMAE]
    c.optimizer.base_lr = 3e-4  # [VideoMAE] UCF101's
    c.optimizer.min_lr = 1e-5  # [VideoMAE]
    c.optimizer.warmup = "40_epochs"  # [VideoMAE]
    c.video_branch.mask.ratio = 0.75  # [VideoMAE] UCF101's; the paper's range is 0.90 to 0.95
