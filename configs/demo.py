"""The demo: CrossVideoMAE on `motion` easy, 4 classes of 8×32×32 clips, on two CPU cores.

    python -m cvmae.main --config=configs/demo.py --workdir=/tmp/demo
"""

from configs import common


def get_config(arg=None):
    args = common.arguments(arg, variant="mini/8")
    c = common.base(args.variant)
    c.batch_size = 128
    c.total, c.log_every, c.eval_every, c.checkpoint_every = "600_steps", "10_steps", "200_steps", "100_steps"
    c.dtype = "float32"
    c.data.source, c.data.eval_split = "motion", "test"
    c.data.num_frames, c.data.stride, c.data.clip_sampling = 8, 1, "middle"
    c.data.frame_size, c.augment.size = (32, 32), (32, 32)
    c.data.workers, c.data.threads, c.data.prefetch = 0, 1, 2
    c.augment.flip = 0.0
    c.augment.hue = 0.1
    for branch in (c.video_branch, c.image_branch):
        branch.mask.ratio = 0.5
        branch.decoder.width, branch.decoder.depth, branch.decoder.heads = 64, 1, 2
    c.contrast.time_reversed_negatives = True
    c.contrast.width = 64
    for term in ("intra_video", "intra_frame", "cross_video", "cross_frame"):
        c.loss[term] = 0.1
    c.loss.intra_video = 0.3
    c.optimizer.base_lr, c.optimizer.clip_norm = 2e-3, 1.0
    return common.runlocal(c) if args.runlocal else c
