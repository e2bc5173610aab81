"""Meta-World, 50 tasks of a simulated robot arm, in videos that this package renders (`python -m cvmae.data.prepare`).

    python -m cvmae.data.prepare --dataset=metaworld --out=metaworld
    python -m cvmae.main --config=configs/metaworld.py --config.data.manifest=metaworld/task.csv --workdir=DIR
    python -m cvmae.main --config=configs/metaworld.py:task=attentive --config.init_from=DIR --config.data.manifest=metaworld/direction.csv

`stage=image` pre-trains the image MAE, on frames of the same videos, that a second run's image branch starts from:

    python -m cvmae.main --config=configs/metaworld.py:stage=image --config.data.manifest=metaworld/task.csv --workdir=STAGE0
    python -m cvmae.main --config=configs/metaworld.py --config.image_branch.init_from=STAGE0 --config.image_branch.train=frozen \
        --config.data.manifest=metaworld/task.csv --workdir=DIR

The manifest chooses the labels: task.csv (50 classes), object.csv (36) or direction.csv (100: each task forwards and backwards).
`task` is pretrain, finetune, linear, attentive, knn, retrieval, extract or visualize. Heads and settings are chosen on the split
val; `--config.data.test_split=test_unseen` tests on other cameras and colors. The defaults are for two CPU cores: 8 of a clip's
frames, at 32x32; `side=96,frames=16,variant=S/16` takes all that `prepare` renders. We have not run it to its end; its accuracy is
unknown; `./launch/evidence.sh` compares objectives and starts. Baselines of raw pixels: `python -m cvmae.data.baselines
--manifest=metaworld/task.csv`.
"""

from cvmae.configs import common, motion


def get_config(arg=None):
    args = common.arguments(arg, variant="mini/8", side=32, frames=8)
    c = common.base(args.variant) if args.task == "pretrain" else motion.small_clips(args)
    common.small_clips(c, args.frames, args.side)
    c.data.name = "metaworld"
    c.data.clip_sampling = "uniform"  # frames spread over the entire clip, whatever their number
    c.data.split = "train"
    for field, split in (("eval_split", "val"), ("test_split", "test")):
        if field in c.data:
            c.data[field] = split
    c.video_branch.positions = "sincos3d"  # [choice] learned positions need longer training
    if args.task == "pretrain":
        pretrain(c)
    return common.finish(c, args)


def pretrain(c):
    """Sets pre-training to values for small clips."""
    c.batch_size = 64
    c.total, c.log_every, c.eval_every, c.checkpoint_every = "100_epochs", "50_steps", "10_epochs", "5_epochs"
    # [choice] All values below are for small clips, and are not the paper's.
    c.augment.scale, c.augment.plus_scale = (0.6, 1.0), (0.6, 1.0)
    c.video_branch.decoder.positions = "sincos3d"
    c.video_branch.mask.ratio, c.image_branch.mask.ratio = 0.75, 0.5
    c.contrast.width = 64
    c.optimizer.base_lr, c.optimizer.clip_norm = 4e-3, 1.0
    c.report.labelled = 2500
