"""The demo: CrossVideoMAE on `motion` easy, 4 classes of 8x32x32 clips, on two CPU cores.

    python -m cvmae.main --config=configs/demo.py --workdir=workdir/demo

All six terms of the paper, plus time-reversed negatives, which are ours and not the paper's (METHOD section 6 in the README): a clip
played backwards is one more negative. The classes of `motion` come in time-reversed pairs, so this set flatters that option.
"""

from configs import common


def get_config(arg=None):
    args = common.arguments(arg, variant="mini/8")
    c = common.base(args.variant)
    common.motion(c, "easy", 8, 32)
    c.batch_size = 128
    c.total, c.log_every, c.eval_every, c.checkpoint_every = "600_steps", "10_steps", "200_steps", "100_steps"
    c.augment.hue = 0.1
    for branch in (c.video_branch, c.image_branch):
        branch.mask.ratio = 0.5  # clips this small want a lower ratio than the paper's
    c.contrast.time_reversed_negatives = True
    c.contrast.width = 64
    for term in ("intra_video", "intra_frame", "cross_video", "cross_frame"):
        c.loss[term] = 0.1
    c.loss.intra_video = 0.3
    c.optimizer.base_lr, c.optimizer.clip_norm = 2e-3, 1.0
    c.report.labelled = 1600
    return common.runlocal(c) if args.runlocal else c
