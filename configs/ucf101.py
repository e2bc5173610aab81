"""UCF101, one of its official splits.

    python -m cvmae.main --config=configs/ucf101.py:variant=B/16 --config.data.manifest=ucf101/split1.csv --workdir=DIR
    python -m cvmae.main --config=configs/ucf101.py:task=finetune --config.init_from=DIR --config.data.manifest=ucf101/split1.csv

`task` is pretrain, finetune, linear, attentive, knn, retrieval, extract or visualize. We have not run it; its accuracy is
unknown (quoted: VideoMAE's own ViT-B, pre-trained on UCF101 alone, fine-tunes to 91.3 %). Protocols: fine-tuning is VideoMAE's
(5 x 3 views); probes have no published one, and take V-JEPA 2's for Kinetics [choice]; `task=retrieval` with
`--config.features.clips=10` is that of Video Clip Order Prediction (retrieve_clips.py of xudejing/video-clip-order-prediction): test
videos look for training videos of their class by the cosine of the means over 10 clips. `:runlocal` takes under a minute on any machine.
"""

from cvmae.configs import common, downstream

RECIPES = {
    # [VideoMAE]
    "B": {"base_lr": 5e-4, "batch_size": 128, "epochs": 100, "layer_decay": 0.7, "drop_path": 0.2, "repeats": 2}
    | {"dropout": 0.5, "min_lr": 1e-5},
}


def get_config(arg=None):
    args = common.arguments(arg)
    return common.finish(small_set(args, RECIPES, stride=4, name="ucf101"), args)  # [VideoMAE] 16 x 4


def small_set(args, recipes, stride: int, name: str = ""):
    """Returns the config of a small data set with only `train` and `test`: VideoMAE's for UCF101, or a downstream task."""
    if args.task == "pretrain":
        c = common.base(args.variant)
        c.data.eval_split = "test"
        c.batch_size = 192  # [VideoMAE] 8 x 24
        c.total = "3200_epochs"  # [VideoMAE]
        c.optimizer.base_lr = 3e-4  # [VideoMAE] UCF101's
        c.optimizer.min_lr = 1e-5  # [VideoMAE]
        c.optimizer.warmup = "40_epochs"  # [VideoMAE]
        c.video_branch.mask.ratio = 0.75  # [VideoMAE] UCF101's; the paper's range is 0.90 to 0.95
    else:
        c = downstream.base(args, recipes)
        downstream.test_only(c)
    c.data.name, c.data.stride = name, stride
    return c
