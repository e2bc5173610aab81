"""Pre-training on `motion`, the procedural labelled set that this package renders (`python -m cvmae.data.motion`).

    python -m cvmae.main --config=configs/motion.py:size=easy --workdir=DIR     # 4 classes, 8x32x32
    python -m cvmae.main --config=configs/motion.py:size=full --workdir=DIR     # 12 classes, 16x64x64; side=96 renders larger

The paper's objective, without the time-reversed negatives that configs/demo.py turns on: the set to compare objectives on. Not
run to its end by us; no accuracy is known.
"""

from configs import common
from cvmae.config import ConfigError, nearest

SHAPES = {"easy": (8, 32), "full": (16, 64)}  # frames and side of the clips, pixels


def get_config(arg=None):
    args = common.arguments(arg, variant="mini/8", size="easy", side=0)
    if args.size not in SHAPES:
        raise ConfigError(f"config argument size={args.size!r} is unknown: {nearest(args.size, SHAPES)}")
    c = common.base(args.variant)
    frames, side = SHAPES[args.size]
    common.motion(c, args.size, frames, args.side or side)
    c.data.motion.side = args.side
    c.batch_size, c.total = 128, "100_epochs"
    return common.finish(c, args)
