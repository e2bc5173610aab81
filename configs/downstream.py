"""The fields of a config of a downstream task, with their defaults and the sources of these.

A data set's config imports `base`, changes the fields that depend on its data, and ends with `common.finish`. Sources as in
common.py, and [VideoMAEv2], [MVD] their published scripts; [V-JEPA 2] its published probes; [timm] the augmentations that all
of them use.
"""

import ml_collections
from cvmae.configs import common, data_fields

# The fine-tuning settings that VideoMAE and its successors share; the table of a data set has the others for each model size.
SHARED = {"batch_size": 512, "layer_decay": 0.75, "drop_path": 0.1, "repeats": 1, "dropout": 0.0, "min_lr": 1e-6}


def base(args, recipes: dict[str, dict]) -> ml_collections.ConfigDict:
    """Returns the default config of a task other than pre-training.

    Args:
      args: the config's arguments.
      recipes: {model size: fields of `SHARED`, base_lr and epochs} of fine-tuning; a missing size takes that of B.
    """
    task = args.task
    c = common.machine(task)
    # A workdir or export of this package, a file or folder of VideoMAE, mae_st or MAE, or a hub id; or `untrained`
    c.init_from = ""
    c.batch_size = 256  # global
    c.data = data_fields.data()
    c.data.test_split = "val"  # published results on SSv2 and Kinetics are on their validation videos
    c.video_branch = common.encoder_of_weights(args.variant)
    c.video_branch.inflate = "none"  # as in pre-training, for init_from of an image encoder
    # Height and width of the views, and the mean and standard deviation of pixels from 0 to 1, by channel
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
    """Sets the splits for data sets that have only `train` and `test`.

    A probe's best head must not be chosen on the test clips, so a tenth of the training clips is held out for it.
    """
    if "test_split" in c.data:
        c.data.test_split = "test"
    if c.task in ("linear", "attentive"):
        c.data.split, c.data.eval_split = "train[:90%]", "train[90%:]"
    elif c.task == "finetune":
        c.data.eval_split = "test"  # for monitoring only: nothing is selected by it


def motion_probe(c):
    """Sets the attentive probe, and the views of tests, to those of V-JEPA 2 on Diving48 and Jester; for other tasks the views alone."""
    if "test" in c:
        c.test.clips = 4  # [V-JEPA 2] 4 x 3
    if c.task == "attentive":
        c.batch_size = 128  # [V-JEPA 2] 2 x 64
        c.total = "100_epochs"  # [V-JEPA 2]
        c.probe.rates, c.probe.weight_decays = (1e-3, 3e-4, 1e-4), (0.8,)  # [V-JEPA 2]
        c.probe.clips = 4  # [V-JEPA 2]
        c.probe.layers = (-7, -5, -3, -1)  # [V-JEPA 2] 17, 19, 21 and 23 of ViT-L; its ViT-g has (-16, -11, -6, -1)


def _trained(c):
    """Sets the fields of the tasks that train: fine-tuning and probes."""
    c.log_every, c.eval_every, c.checkpoint_every = "50_steps", "1_epochs", "1_epochs"  # epochs, steps or percent of the run
    c.checkpoint_keep = 2  # number of the newest checkpoints that are kept
    c.checkpoint_keep_every = "0_steps"  # interval of checkpoints that are never deleted, beside the newest; 0_steps: none
    c.profile = ""  # steps FIRST:LAST, such as 100:105, to write a trace of for XProf; see launch/README.md
    c.log = common.trackers()
    c.augment.scale, c.augment.ratio = (0.08, 1.0), (0.75, 4 / 3)  # areas and aspect ratios of crops; [VideoMAE]
    c.augment.flip = 0.5  # probability; 0 if class names contain left and right; [VideoMAE]
    c.augment.mirror_labels = False  # True gives a flipped clip the class whose name has left and right exchanged
    # The final test averages the softmax over clips x crops of each video of data.test_split; [VideoMAE] on Kinetics
    c.test = ml_collections.ConfigDict({"clips": 5, "crops": 3})


def _finetune(c):
    c.accumulate = 1  # number of micro-batches
    c.head = ml_collections.ConfigDict(
        {
            "init": "new",  # new | weights (the head of init_from, which must be a classifier; total=0_steps only tests it)
            "classes": 0,  # 0 takes the number from the data
            "pool": "mean",  # mean (VideoMAE, mae_st) | first (the cls token, or else the first patch) | attentive (V-JEPA 2)
            "blocks": 3,  # of self-attention, in the pooler of pool=attentive; [V-JEPA 2]
            "heads": 16,  # attention heads of that pooler; [V-JEPA 2] those of the encoder
            "eps": 1e-6,  # of the layer norm after pooling, 1e-6 in VideoMAE and mae_st, 1e-5 in transformers
            "dropout": 0.0,  # before the classifier
            "init_scale": 0.001,  # of the classifier's new weights; [VideoMAE]
            "drop_path": 0.1,  # largest probability of leaving out a block, that of the last one
            "loss": "softmax",  # softmax (one label a video) | sigmoid (several, separated by ; in the manifest; tested by mAP)
        }
    )
    c.finetune = ml_collections.ConfigDict(
        {
            # all | last:BLOCKS (and all that follows them) | lora:RANK (updates of queries and values, arXiv 2106.09685, and the head)
            "train": "all",
            "lora_alpha": 8.0,  # strength of the updates, which the rank divides; Hu et al. take 8 for RoBERTa-B at rank 8
        }
    )
    c.augment.repeats = 1  # augmented views per decoded clip; batch size and learning rate are in clips (VideoMAE)
    c.augment.smoothing = 0.1  # of labels; [VideoMAE]
    c.augment.rand_augment = ml_collections.ConfigDict(  # RandAugment; [VideoMAE] rand-m7-n4-mstd0.5-inc1
        {
            "layers": 4,  # operations on a clip; 0 for none; [VideoMAE]
            "magnitude": 7.0,  # mean strength of an operation, from 0 to 10; [VideoMAE]
            "deviation": 0.5,  # standard deviation of the strength; [VideoMAE]
            "probability": 0.5,  # of each operation; [timm]
        }
    )
    c.augment.erasing = ml_collections.ConfigDict(
        {
            "probability": 0.25,  # of erasing a rectangle of the clip; 0 for none; [VideoMAE]
            "area": (0.02, 1 / 3),  # of the rectangle, as a fraction of a frame; [timm]
            "ratio": (0.3, 10 / 3),  # aspect ratios of the rectangle; [timm]
        }
    )
    c.augment.mix = ml_collections.ConfigDict(
        {
            "mixup": 0.8,  # parameter of mixup's beta distribution; 0 for none; [VideoMAE]
            "cutmix": 1.0,  # parameter of CutMix's beta distribution; 0 for none; [VideoMAE]
            "probability": 1.0,  # of mixing a batch; [VideoMAE]
            "switch": 0.5,  # probability of CutMix instead of mixup; [VideoMAE]
        }
    )
    c.optimizer = ml_collections.ConfigDict(
        {
            "base_lr": 5e-4,  # learning rate at its peak, per 256 clips of a batch; [VideoMAE]
            "min_lr": 1e-6,  # learning rate at the end; [VideoMAE]
            "warmup": "5_epochs",  # linear rise of the learning rate; [VideoMAE]
            "b1": 0.9,  # [VideoMAE]
            "b2": 0.999,  # [VideoMAE]
            "eps": 1e-8,  # [VideoMAE]
            "weight_decay": 0.05,  # [VideoMAE]
            "clip_norm": 0.0,  # largest norm of the gradients; 0 for no gradient clipping; [VideoMAE]
            "ema_decay": 0.0,  # if above 0, evaluation uses an exponential moving average of the parameters
            "layer_decay": 0.75,  # factor of the learning rate from a block to the one before; [VideoMAE]
        }
    )
    common.schedule(c.optimizer)
    c.total = "50_epochs"  # length of the run: epochs or steps; [VideoMAE]


def apply(c, recipe: dict):
    """Sets the fields of a fine-tuning recipe."""
    values = SHARED | recipe
    c.batch_size, c.total = values["batch_size"], f"{values['epochs']}_epochs"
    c.augment.repeats = values["repeats"]
    c.head.dropout, c.head.drop_path = values["dropout"], values["drop_path"]
    c.optimizer.base_lr, c.optimizer.min_lr = values["base_lr"], values["min_lr"]
    c.optimizer.layer_decay = values["layer_decay"]


def _probe(c):
    """Sets a grid of learning rates and weight decays, with a head for each pair, all trained at once on one frozen encoder."""
    c.total = "20_epochs"  # [V-JEPA 2]
    c.probe = ml_collections.ConfigDict(
        {
            "classes": 0,  # 0 takes the number from the data
            # AdamW's, not scaled by the batch size, decaying to 0 by half a cosine; [choice]
            "rates": (1e-2, 3e-3, 1e-3, 3e-4, 1e-4),
            "weight_decays": (1e-4, 1e-2, 1e-1),  # each with each of `rates`; [choice]
            "loss": "softmax",  # softmax (one label a video) | sigmoid (several, separated by ; in the manifest)
        }
    )
    c.optimizer = ml_collections.ConfigDict(
        {
            "warmup": "0_steps",  # linear rise of the learning rates
            "b1": 0.9,  # AdamW's
            "b2": 0.999,  # AdamW's
            "eps": 1e-8,  # AdamW's
            "ema_decay": 0.0,  # if above 0, heads are evaluated by an exponential moving average; published probes have none
        }
    )


def _attentive(c):
    _probe(c)
    # 20 pairs of a learning rate and a weight decay; [V-JEPA 2]
    c.probe.rates, c.probe.weight_decays = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4), (0.01, 0.1, 0.4, 0.8)
    c.probe.blocks = 3  # self-attention blocks before the cross-attention; [V-JEPA 2] whose num_probe_blocks of 4 counts both
    # Blocks of the encoder whose tokens are read, each through its last norm, all of them side by side; -1 is the encoder's output
    c.probe.layers = (-1,)
    # Clips of a video whose tokens are read together, in training and in the test, where test.clips is a multiple; 1 reads each by itself
    c.probe.clips = 1
    c.probe.heads = 16  # attention heads; [V-JEPA 2]


def _features(c):
    c.features = ml_collections.ConfigDict(
        {
            "layer": -1,  # the block whose output is taken; -1 for the encoder's output
            "clips": 1,  # of a video, whose features are averaged
            "crops": 1,  # of a clip, whose features are averaged
        }
    )


def _knn(c):
    _features(c)
    c.knn = ml_collections.ConfigDict(
        {
            "neighbours": (10, 20, 100, 200),  # numbers of neighbors that vote; [choice]
            "temperature": 0.07,  # of the weighted vote of DINO and InstDisc; [choice]
        }
    )


def _retrieval(c):
    _features(c)
    c.features.clips = 2  # with two or more, the first clip of each video also retrieves the second among those of all videos


def _extract(c):
    del c.data.test_split
    c.extract = ml_collections.ConfigDict(
        {
            "layer": -1,  # the block whose output is taken; -1 for the encoder's output
            "tokens": "pooled",  # pooled | slots (one vector per temporal position) | all
            "window_stride": 0,  # clip frames from one window to the next; 0: no overlap
            "format": "npz",  # npz | array_record | npy (for heads of temporal localization)
            "dtype": "float32",  # float32 | float16
        }
    )


def _visualize(c):
    # Figures are of clips of data.test_split; the gallery of retrieval is data.split.
    c.batch_size = 16  # for features
    c.visualize = ml_collections.ConfigDict(
        {
            "clips": 4,  # number of clips with figures of their own, evenly spread over the split
            "records": (),  # or their indices
            "ratios": (0.90, 0.95),  # [paper] Figure 1; a figure for each
            "mask": "random",  # random | tube | frame
            "columns": 8,  # frames of a still figure, evenly spaced; 0 for all. Animations show all frames.
            "map": "attention",  # attention | rollout (Abnar and Zuidema 2020)
            "layer": -1,  # block whose attention and tokens are drawn; -1 for the last block's attention and the encoder's output
            "head": -1,  # -1 for the mean over heads
            "query": "mean",  # mean over all patches | cls | patch, the one at `position`
            "position": (0.5, 0.5, 0.5),  # time, row and column, as fractions of the clip
            "semantic": "auto",  # auto (image if there is an image branch, else pca) | image | pca
            "image_from": "",  # weights of an image encoder for the semantic row; '' takes the image branch of init_from's workdir
            "target_norm": "auto",  # auto, as recorded in the weights | patch | patch_channel | none | pixels (not normalized)
            "formats": ("png", "gif", "mp4"),  # formats of the figures of clips; other figures are PNG
            "fps": 4.0,  # frame rate of animations
            "embedded": 400,  # number of clips in the embedding; 0 for none
            "embedding": "tsne",  # tsne | pca
            "perplexity": 30.0,  # of t-SNE
            "queries": 8,  # number of test clips whose neighbors are shown; 0 for none
            "neighbours": 5,  # of each
            "gallery": 1000,  # number of clips of data.split, evenly spread, to search for neighbors
        }
    )
