"""Kinetics-400; Kinetics-600 and -700 with their own manifests.

    python -m cvmae.main --config=configs/k400.py:variant=B/16 --config.data.manifest=k400/manifest.csv --workdir=DIR
    python -m cvmae.main --config=configs/k400.py:task=finetune --config.init_from=DIR --config.data.manifest=k400/manifest.csv

`task` is pretrain, finetune, linear, attentive, knn, retrieval, extract or visualize. We have not run it; its accuracy is
unknown (quoted: VideoMAE's own ViT-B fine-tunes to 81.5 % after 1600 epochs). Protocols: fine-tuning is VideoMAE's (5 x 3 views), the
attentive probe V-JEPA 2's (configs/eval/vitl/k400.yaml of facebookresearch/vjepa2), which reads 8 clips of a video together. The linear
probe has no published protocol for videos [choice]. `:runlocal` takes under a minute on any machine.
"""

from cvmae.configs import common, downstream

RECIPES = {
    "S": {"base_lr": 5e-4, "batch_size": 384, "epochs": 150, "repeats": 2},  # [VideoMAE]
    "B": {"base_lr": 1e-3, "epochs": 100},  # [VideoMAE] after 800 epochs
    "L": {"base_lr": 2e-3, "batch_size": 128, "epochs": 35, "repeats": 2},  # [VideoMAE]
    "H": {"base_lr": 1e-3, "epochs": 50, "drop_path": 0.2, "repeats": 2, "dropout": 0.5, "min_lr": 1e-5},  # [VideoMAE]
}


def get_config(arg=None):
    args = common.arguments(arg)
    if args.task == "pretrain":
        c = common.base(args.variant)
        c.total = "800_epochs"  # [VideoMAE] the shorter of its two schedules, 800 and 1600
        c.optimizer.warmup = "40_epochs"  # [VideoMAE]
    else:
        c = downstream.base(args, RECIPES)  # its test, 5 x 3, is VideoMAE's for Kinetics
    if args.task == "attentive":
        c.probe.clips = c.test.clips = 8  # [V-JEPA 2] 8 x 3
    c.data.name = "k400"
    c.data.stride = 4  # [VideoMAE] 16 x 4
    return common.finish(c, args)
