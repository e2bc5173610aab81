"""The demo: CrossVideoMAE on `motion` easy, 4 classes of 8x32x32 clips, for two CPU cores.

    python -m cvmae.main --config=configs/demo.py --workdir=workdir/demo
    python -m cvmae.main --config=configs/demo.py:task=finetune --config.init_from=workdir/demo --workdir=workdir/demo-finetune

`task` is pretrain, finetune, linear, attentive, knn, retrieval, extract or visualize. All six loss terms of the paper, plus
time-reversed negatives, which the paper does not have: the time-reversed clip is one more negative. The classes of `motion` are
time-reversed pairs, so this data set favors that option.
"""

from cvmae.configs import common, motion


def get_config(arg=None):
    args = common.arguments(arg, variant="mini/8")
    c = common.base(args.variant) if args.task == "pretrain" else motion.small_clips(args)
    common.motion(c, "easy", 8, 32)
    c.video_branch.positions = "sincos3d"  # learned positions need more than 600 steps
    if args.task == "pretrain":
        pretrain(c)
    return common.finish(c, args)


def pretrain(c):
    """Sets pre-training to 600 steps, with values for small clips and a short run."""
    c.batch_size = 64
    c.total, c.log_every, c.eval_every, c.checkpoint_every = "600_steps", "10_steps", "200_steps", "100_steps"
    # [choice] All values below are for small clips and a short run, and are not the paper's.
    c.augment.scale, c.augment.plus_scale, c.augment.hue = (0.6, 1.0), (0.6, 1.0), 0.1
    c.video_branch.decoder.positions = "sincos3d"
    for branch in (c.video_branch, c.image_branch):
        branch.mask.ratio = 0.5
    c.contrast.time_reversed_negatives, c.contrast.width = True, 64
    c.loss.intra_frame, c.loss.cross_video, c.loss.cross_frame = 0.1, 0.1, 0.1
    c.optimizer.base_lr, c.optimizer.clip_norm = 4e-3, 1.0
    c.report.labelled = 1600
