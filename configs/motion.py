"""`motion`, the procedural labeled data set that this package renders (`python -m cvmae.data.motion`).

    python -m cvmae.main --config=configs/motion.py:size=easy --workdir=DIR     # 4 classes, 8x32x32
    python -m cvmae.main --config=configs/motion.py:size=full --workdir=DIR     # 12 classes, 16x64x64; side=96 renders larger
    python -m cvmae.main --config=configs/motion.py:size=easy,task=linear --config.init_from=DIR --workdir=OTHER

Pre-training has the paper's objective, without the time-reversed negatives of configs/demo.py: use it to compare objectives. We
have not run it to its end; its accuracy is unknown. No protocols are published, since the set is this package's: in fine-tuning and probes
a test clip has one view, the whole clip, and a tenth of the training clips chooses the head of a probe [choice]. Downstream tasks also work with the demo's encoders; see configs/demo.py.
"""

from cvmae.configs import common, downstream

from cvmae.config import ConfigError, nearest

SHAPES = {"easy": (8, 32), "full": (16, 64)}  # frames and side of the clips, pixels
RECIPES = {"B": {"base_lr": 4e-3, "batch_size": 64, "epochs": 20, "layer_decay": 0.75, "drop_path": 0.1}}  # [choice]


def get_config(arg=None):
    args = common.arguments(arg, variant="mini/8", size="easy", side=0)
    if args.size not in SHAPES:
        raise ConfigError(f"config argument size={args.size!r} is unknown: {nearest(args.size, SHAPES)}")
    if args.task == "pretrain":
        c = common.base(args.variant)
        c.batch_size, c.total = 128, "100_epochs"
    else:
        c = small_clips(args)
    frames, side = SHAPES[args.size]
    common.motion(c, args.size, frames, args.side or side)
    c.data.motion.side = args.side
    return common.finish(c, args)


def small_clips(args):
    """Returns a downstream task for small clips: with little cropping, no erasing and no mixing, which could hide the object."""
    c = downstream.base(args, RECIPES)
    downstream.test_only(c)
    if "scale" in c.augment:
        c.augment.scale = (0.6, 1.0)
        c.test.clips, c.test.crops = 1, 1  # a clip is the entire video, and square
    if args.task == "finetune":
        c.augment.rand_augment.layers, c.augment.erasing.probability = 0, 0.0
        c.augment.mix.mixup = c.augment.mix.cutmix = 0.0
    if args.task == "attentive":
        c.probe.blocks, c.probe.heads = 0, 3
    if args.task == "retrieval":
        c.features.clips = 1
    return c
