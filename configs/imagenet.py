"""ImageNet-1K: a video encoder tested on pictures, each a clip of one repeated frame, and an image MAE pre-trained on them.

    python -m cvmae.data.prepare --dataset=imagenet --videos=ILSVRC/Data/CLS-LOC --labels=ILSVRC --out=imagenet
    python -m cvmae.main --config=configs/imagenet.py:task=attentive --config.init_from=DIR --config.data.manifest=imagenet/manifest.csv
    python -m cvmae.main --config=configs/imagenet.py:task=linear --config.init_from=DIR --config.data.manifest=imagenet/manifest.csv
    python -m cvmae.main --config=configs/imagenet.py:task=finetune --config.init_from=DIR --config.data.manifest=imagenet/manifest.csv

From tar shards, or from the Hugging Face hub (cvmae/data/README.md), instead of `--config.data.manifest`:

    --config.data.source=webdataset --config.data.webdataset.shards='imagenet/shards/{split}-*.tar'
    --config.data.source=hf --config.data.hf.path=ILSVRC/imagenet-1k --config.data.hf.video=image --config.data.test_split=validation

(fine-tuning also needs `--config.data.eval_split=validation`).

Pre-training here is `stage=image`: MAE's objective alone, for the weights that the image branch of a run on videos starts from. With
`parent=videomae` or `parent=mae_st` the video branch is trained on the repeated frames: an image MAE as well, which learns nothing about motion.

    python -m cvmae.main --config=configs/imagenet.py --config.data.manifest=imagenet/manifest.csv --workdir=STAGE0
    python -m cvmae.main --config=configs/ssv2.py --config.image_branch.init_from=STAGE0 --config.data.manifest=ssv2/manifest.csv

`task` is pretrain, finetune, linear, attentive, knn, retrieval, extract or visualize. Crops are taken from the center square, at
`data.frame_size`. Protocols: fine-tuning is MAE's; the attentive probe is V-JEPA 2's (configs/eval/vitl/in1k.yaml of
facebookresearch/vjepa2) without the one of its 21 heads that has no warm-up. The linear probe has batch norm without scale as MAE's
(main_linprobe.py of facebookresearch/mae), but AdamW, 20 epochs and a grid of rates [choice], where MAE has LARS at one rate, 90 epochs, a
batch of 16,384 and the cls token. We have not run it; its accuracy is unknown (quoted, as an image encoder: MAE's ViT-B fine-tunes to 83.6 %
after 1600 epochs, and probes to 68.0 %). `:runlocal` takes under a minute on any machine.
"""

from cvmae.configs import common, downstream

RECIPES = {
    "B": {"base_lr": 5e-4, "batch_size": 1024, "epochs": 100, "layer_decay": 0.65},  # [MAE]
    "L": {"base_lr": 1e-3, "batch_size": 1024, "epochs": 50, "layer_decay": 0.75, "drop_path": 0.2},  # [MAE]
    "H": {"base_lr": 1e-3, "batch_size": 1024, "epochs": 50, "layer_decay": 0.75, "drop_path": 0.3},  # [MAE]
}


def get_config(arg=None):
    args = common.arguments(arg)
    if args.task == "pretrain":
        c = common.base(args.variant)
        pretrain(c)
        if not args.parent or args.stage == "image":
            args.stage = "image"
            c.data.num_frames, c.video_branch.tubelet = 1, 1  # no clip: the video branch is not trained
    else:
        c = downstream.base(args, RECIPES)
        downstream_task(c)
    c.data.name = "imagenet"
    c.data.pictures = True
    c.data.stride = 1  # without effect on a single frame
    c.data.clip_sampling = "middle"  # of a single frame nothing is drawn
    # Pictures may state the density of a print in which pixels are not square; all who publish numbers on them ignore it
    c.data.square_pixels = False
    return common.finish(c, args)


def pretrain(c):
    """Sets pre-training to MAE's schedule and crops; `stage` and `parent` set the objective."""
    c.batch_size = 4096  # [MAE]
    c.total = "800_epochs"  # [MAE] the shorter of its two schedules, 800 and 1600
    c.optimizer.base_lr = 1.5e-4  # [MAE]
    c.optimizer.warmup = "40_epochs"  # [MAE]
    c.optimizer.clip_norm = 0.0  # [MAE]
    c.augment.scale = (0.2, 1.0)  # [MAE]


def downstream_task(c):
    """Sets the splits, the recipe of the task, and a test on the center crop."""
    c.data.num_frames = 16  # [V-JEPA 2] the frame is repeated to a clip of the encoder's length
    if "test" in c:
        c.test.clips, c.test.crops = 1, 1  # [MAE], [V-JEPA 2] the center crop
    if c.task in ("linear", "attentive"):
        # The head is not chosen among the pictures that it is tested on; [choice]
        c.data.split, c.data.eval_split = "train[:99%]", "train[99%:]"
        c.batch_size = 1024  # [V-JEPA 2]
    if c.task == "attentive":
        c.probe.rates = (2e-3, 1.5e-3, 1e-3, 5e-4)  # [V-JEPA 2]
        c.probe.weight_decays = (8e-3, 4e-3, 2e-3, 1e-3, 5e-4)  # [V-JEPA 2]
        c.optimizer.warmup = "5_epochs"  # [V-JEPA 2]
    if c.task == "finetune":
        c.augment.rand_augment.layers, c.augment.rand_augment.magnitude = 2, 9.0  # [MAE] rand-m9-mstd0.5-inc1
