"""The fields of a config of a downstream task, with their defaults and where those are from.

A data set's config imports `base`, changes what its data needs, and ends in `common.finish`. Marks as in common.py, and
[VideoMAEv2] [MVD]: their published scripts; [V-JEPA 2] its published probes; [timm] the augmentations that all of them use.
"""

import ml_collections
from cvmae.configs import common

# What VideoMAE and its successors share when they fine-tune; a data set's table says the rest for each size of the model.
SHARED = {"batch_size": 512, "layer_decay": 0.75, "drop_path": 0.1, "repeats": 1, "dropout": 0.0, "min_lr": 1e-6}


def base(args, recipes: dict[str, dict]) -> ml_collections.ConfigDict:
    """The config of a task other than pre-training.

    Args:
      args: the config's arguments.
      recipes: {size: fields of `SHARED`, and base_lr and epochs} of fine-tuning; a size that it lacks takes the one of B.
    """
    task = args.task
    c = common.machine(task)
    # A workdir or export of this package, a file or folder of VideoMAE, mae_st or MAE, or a hub id; or `untrained`.
    c.init_from = ""
    c.batch_size = 256
    c.data = common.data()
    c.data.test_split = "val"  # the published numbers of SSv2 and Kinetics are on their validation videos
    c.video_branch = common.encoder_of_weights(args.variant)
    c.video_branch.inflate = "none"  # as in pre-training, for init_from of an image encoder
    c.augment = ml_collections.ConfigDict({"size": (224, 224), "mean": common.IMAGENET_MEAN, "std": common.IMAGENET_STD})
    if task in ("finetune", "linear", "attentive"):
        _trained(c)
        {"finetune": _finetune, "linear": _probe, "attentive": _attentive}[task](c)
    else:
        del c.data.eval_split
        {"knn": _knn, "retrieval": _retrieval, "extract": _extract, "visualize": _visualize}[task](c)
    if task == "finetune":
        apply(c, recipes.get(args.variant.partition("/")[0], recipes["B"]))
    return c


def test_only(c):
    """For sets with `train` and `test` alone.

    The best head of a probe would be chosen on the test clips, so a tenth of the training clips is kept for that.
    """
    if "test_split" in c.data:
        c.data.test_split = "test"
    if c.task in ("linear", "attentive"):
        c.data.split, c.data.eval_split = "train[:90%]", "train[90%:]"
    elif c.task == "finetune":
        c.data.eval_split = "test"  # it is only watched: nothing is chosen by it


def _trained(c):
    """What every task that learns has."""
    c.log_every, c.eval_every, c.checkpoint_every, c.checkpoint_keep = "50_steps", "1_epochs", "1_epochs", 2
    c.augment.scale, c.augment.ratio = (0.08, 1.0), (0.75, 4 / 3)  # [VideoMAE]
    c.augment.flip = 0.5  # [VideoMAE], but on Something-Something
    c.augment.mirror_labels = False  # a flipped clip takes the class whose name has left and right exchanged
    # Clips x crops of each video of data.test_split at the end, their softmax averaged.
    c.test = ml_collections.ConfigDict({"clips": 5, "crops": 3})  # [VideoMAE] Kinetics


def _finetune(c):
    c.accumulate = 1  # parts a batch is computed in
    c.head = ml_collections.ConfigDict(
        # init: new | weights (those of init_from, which must be a classifier's; with total=0_steps they are only tested)
        # classes: 0 takes them from the data. pool: mean (VideoMAE, mae_st) | first (the cls token, or else the first patch)
        # eps: of the norm after pooling, 1e-6 in VideoMAE and mae_st, 1e-5 in transformers
        {"init": "new", "classes": 0, "pool": "mean", "eps": 1e-6, "dropout": 0.0, "init_scale": 0.001, "drop_path": 0.1}
    )
    c.augment.repeats = 1  # augmented views of each decoded clip; the batch and the learning rate count clips (VideoMAE)
    c.augment.smoothing = 0.1  # [VideoMAE]
    c.augment.rand_augment = ml_collections.ConfigDict(
        # [VideoMAE] rand-m7-n4-mstd0.5-inc1; 0 layers turn it off
        {"layers": 4, "magnitude": 7.0, "deviation": 0.5, "probability": 0.5}
    )
    c.augment.erasing = ml_collections.ConfigDict(
        # [VideoMAE] probability; [timm] the rest; probability 0 turns it off
        {"probability": 0.25, "area": (0.02, 1 / 3), "ratio": (0.3, 10 / 3)}
    )
    # [VideoMAE] parameters of the beta distributions, 0 turns one off; probability of mixing at all, and of cutmix then
    c.augment.mix = ml_collections.ConfigDict({"mixup": 0.8, "cutmix": 1.0, "probability": 1.0, "switch": 0.5})
    c.optimizer = ml_collections.ConfigDict(
        # [VideoMAE]; base_lr is per 256 clips; clip_norm 0 turns it off
        {"base_lr": 5e-4, "min_lr": 1e-6, "warmup": "5_epochs", "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.05}
        | {"clip_norm": 0.0, "ema_decay": 0.0, "layer_decay": 0.75}
    )
    c.total = "50_epochs"


def apply(c, recipe: dict):
    """Sets the numbers of a fine-tuning recipe."""
    values = SHARED | recipe
    c.batch_size, c.total = values["batch_size"], f"{values['epochs']}_epochs"
    c.augment.repeats = values["repeats"]
    c.head.dropout, c.head.drop_path = values["dropout"], values["drop_path"]
    c.optimizer.base_lr, c.optimizer.min_lr = values["base_lr"], values["min_lr"]
    c.optimizer.layer_decay = values["layer_decay"]


def _probe(c):
    """Every pair of the grid is a head of its own, all trained at once on the features of one frozen encoder."""
    c.total = "20_epochs"  # [V-JEPA 2]
    c.probe = ml_collections.ConfigDict(
        # AdamW. The rates are what they are, not per 256 clips, and fall to 0 by half a cosine. Values [choice].
        {"classes": 0, "rates": (1e-2, 3e-3, 1e-3, 3e-4, 1e-4), "weight_decays": (1e-4, 1e-2, 1e-1)}
    )
    c.optimizer = ml_collections.ConfigDict({"warmup": "0_steps", "b1": 0.9, "b2": 0.999, "eps": 1e-8})


def _attentive(c):
    _probe(c)
    # [V-JEPA 2] 20 heads: rates and decays; three blocks of self-attention before the query's cross-attention, 16 heads.
    c.probe.rates, c.probe.weight_decays = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4), (0.01, 0.1, 0.4, 0.8)
    c.probe.blocks, c.probe.heads = 3, 16


def _features(c):
    # layer: -1 the encoder's output, else the output of that block. clips and crops of a video are averaged.
    c.features = ml_collections.ConfigDict({"layer": -1, "clips": 1, "crops": 1})


def _knn(c):
    _features(c)
    # [choice] the neighbors and the temperature of DINO's and InstDisc's weighted vote
    c.knn = ml_collections.ConfigDict({"neighbours": (10, 20, 100, 200), "temperature": 0.07})


def _retrieval(c):
    _features(c)
    c.features.clips = 2  # two clips or more: the first is also looked for among the seconds of all videos


def _extract(c):
    del c.data.test_split
    c.extract = ml_collections.ConfigDict(
        # tokens: pooled | slots | all. window_stride: frames from one window to the next, at the clip's own step; 0: no overlap.
        # format: npz | array_record. dtype: float32 | float16.
        {"layer": -1, "tokens": "pooled", "window_stride": 0, "format": "npz", "dtype": "float32"}
    )


def _visualize(c):
    # Pictures of clips of data.test_split; those of data.split are what retrieval looks through.
    c.batch_size = 16  # of features
    c.visualize = ml_collections.ConfigDict(
        {
            "clips": 4,  # drawn one by one, spread evenly over the split
            "records": (),  # their numbers instead
            "ratios": (0.90, 0.95),  # [paper] Figure 1; a figure for each
            "mask": "random",  # random | tube | frame
            "columns": 8,  # frames that a figure shows, spread evenly over the clip; 0 for all. What moves shows all.
            "map": "attention",  # attention | rollout (Abnar and Zuidema 2020)
            "layer": -1,  # block whose attention and tokens are drawn; -1 the last one's, and the encoder's output
            "head": -1,  # -1 the mean over heads
            "query": "mean",  # mean over all patches | cls | patch, the one at `position`
            "position": (0.5, 0.5, 0.5),  # time, row and column as shares of the clip
            "semantic": "auto",  # auto (image, where there is an image branch) | image | pca
            "image_from": "",  # weights of an image encoder for the semantic row; '' takes the image branch of init_from's workdir
            "target_norm": "auto",  # auto, what the weights say | patch | patch_channel | none | pixels (not even normalized)
            "formats": ("png", "gif", "mp4"),  # of the figures of clips; all else is PNG
            "fps": 4.0,  # of what moves
            "embedded": 400,  # clips laid out by their features; 0 for none
            "embedding": "tsne",  # tsne | pca
            "perplexity": 30.0,
            "queries": 8,  # test clips whose neighbors are shown; 0 for none
            "neighbours": 5,
            "gallery": 1000,  # clips of data.split, spread evenly, that neighbors are looked for in
        }
    )
