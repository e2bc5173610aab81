"""The fields of all configs, with defaults of the paper where it gives them, else of the methods it builds on, else our own.

Sources: [paper] arXiv 2502.07811; [mae_st], [VideoMAE], [MAE] published code or text of these methods; [CrossPoint]; [choice]
our own. A config imports `base`, changes the fields that depend on its data set, and ends with `finish`.
"""

import ml_collections
from cvmae.configs import data_fields, variants

from cvmae.config import ConfigError, nearest, parse_arg
from cvmae.objective import BUILT_IN
from cvmae.tasks import TASKS
from cvmae.tasks.model_fields import UNTRAINED_ENCODER

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def arguments(arg, **defaults):
    """Parses the argument of a config; `task`, `variant` and the other keys of `common` are of all configs.

    The result also has `explicit_variant`, the variant that the argument itself gives, empty where it gives none.
    """
    common = {"task": "pretrain", "variant": "", "parent": "", "stage": "", "phase": "", "sources": ""}
    common |= {"fast": False, "exportable": False, "runlocal": False}
    args = parse_arg(arg, **(common | defaults | {"variant": ""}))
    args.explicit_variant = args.variant
    args.variant = args.variant or defaults.get("variant", "")
    tasks = [task for task in TASKS if task != "ablate"]
    choices = {"task": tasks, "parent": ("", *variants.PARENTS), "stage": ("", *variants.STAGES), "phase": ("", *variants.PHASES)}
    for name, known in choices.items():
        if args[name] not in known:
            raise ConfigError(f"config argument {name}={args[name]!r} is unknown: {nearest(args[name], filter(None, known))}")
    if args.task == "pretrain" and not args.variant:
        args.variant = "B/16"
    return args


def finish(c, args):
    """Applies the arguments that all configs have, except `task` and `variant`, to a config; every config ends with it."""
    if args.parent:
        variants.parent_encoder(c, args.parent)
    if args.parent and c.task == "pretrain":
        variants.parent(c, args.parent)
    variants.image_stage(c, args)
    variants.cooldown(c, args)
    variants.exportable(c, args)
    for name in filter(None, args.sources.split("+")):
        c.data.mixture += f"{',' if c.data.mixture else ''}{name}:1"
        c.data.sources[name] = data_fields.section(c.data)
    if args.runlocal:
        variants.runlocal(c, args)
    variants.fast(c, args)  # last, as the number of heads follows from the width of the decoder
    return c


def _augment():
    c = ml_collections.ConfigDict()
    c.size = (224, 224)  # height and width of every view; [mae_st], [VideoMAE], [MAE]
    c.scale, c.ratio = (0.5, 1.0), (0.75, 4 / 3)  # areas and aspect ratios of crops of v; [mae_st]
    c.plus_scale, c.plus_ratio = (0.5, 1.0), (0.75, 4 / 3)  # those of v⁺; [paper] random crop and scale, values [choice]
    c.flip = 0.5  # probability; 0 if class names contain left and right; [mae_st]
    c.brightness, c.contrast, c.saturation = 0.4, 0.4, 0.4  # strengths of v⁺'s color jitter; [paper] jitter, values [CrossPoint]
    c.hue = 0.0  # strength of the jitter of hue; SimCLR has 0.2, and 0.8 for the others
    c.color_probability = 0.8  # probability of the color jitter; [choice]
    # Probability of another change of v⁺; SimCLR has 0.2 for grayscale, 0.5 for blur and 0 for solarize; [choice]
    c.grayscale, c.blur, c.solarize = 0.0, 0.0, 0.0
    # crop: v is cropped alone | raw: resized and center-cropped | color: its colors change too, independently of those of v⁺; [choice]
    c.first_view = "crop"
    # Largest number of clip frames that v⁺ begins before or after v, for which as many more are decoded; 0: both have the same frames.
    # Two clips of a video as a pair are CVRL's (arXiv 2008.03800); [choice]
    c.plus_shift = 0
    c.mean, c.std = IMAGENET_MEAN, IMAGENET_STD  # mean and standard deviation of pixels from 0 to 1, by channel
    return c


def encoder(variant, positions, cls_token, tubelet):
    """Returns the fields of an encoder."""
    c = ml_collections.ConfigDict()
    # vit | factorized (blocks within frames, then over time: VideoPrism, in downstream tasks); see cvmae/models/backbone.py to add others
    c.backbone = "vit"
    c.variant = variant  # size and side of a patch, such as S/16, B/16, L/16 and H/14
    c.tubelet = tubelet  # number of frames in a patch
    c.positions = positions  # separable | learned | sincos1d | sincos2d | sincos3d | rope3d (rotary: V-JEPA 2)
    c.cls_token = cls_token  # True adds a token to those of the patches
    c.qkv_bias = "qkv"  # qkv | qv | none
    c.eps = 1e-6  # of the layer norms
    c.mlp = "gelu"  # gelu (exact: MAE, VideoMAE) | gelu_tanh (SigLIP; faster on TPUs) | swiglu (DINOv2 g), of encoder and decoder
    c.layer_scale = False  # True multiplies the branches of the encoder's blocks by learned factors; DINOv2
    c.registers = 0  # number of learned tokens that are no part of the output; DINOv2 with registers has 4
    c.softcap = 0.0  # above 0: logits l of the encoder's attention become softcap * tanh(l / softcap); VideoPrism has 50
    c.temporal_blocks = 0  # with factorized: number of blocks over time behind those of the variant; VideoPrism has 4
    c.final_norm = True  # a layer norm after the last block
    return c


def encoder_of_weights(variant):
    """Returns the fields of an encoder that are taken from the weights of config.init_from; what a config or flag sets is compared."""
    c = ml_collections.ConfigDict()
    for name, default in UNTRAINED_ENCODER.items():
        c[name] = ml_collections.config_dict.placeholder(type(default))
    if variant:
        c.variant = variant  # size and side of a patch, compared with those of the weights
    return c


def teacher():
    """Returns the fields of the teacher of video_branch.target=latent; those of its encoder are taken from its weights."""
    c = encoder_of_weights("")
    c.init_from = ""  # the teacher's weights: a workdir, weights file or folder, or hub id, as of video_branch.init_from
    c.norm = "layer"  # of its features as targets: layer (a layer norm without scale and bias: V-JEPA) | none
    return c


def _branch(variant, positions, cls_token, tubelet, mask_ratio, decoder_depth):
    c = encoder(variant, positions, cls_token, tubelet)
    c.mask = ml_collections.ConfigDict(
        {
            "kind": "random",  # random | tube | frame
            "ratio": mask_ratio,  # fraction of the patches that are masked; [paper]
            "rounding": "up",  # of the number of visible patches: up (VideoMAE) | down (MAE, mae_st)
        }
    )
    c.target_norm = "patch"  # patch (MAE, mae_st) | patch_channel (VideoMAE) | none
    c.decoder = ml_collections.ConfigDict(
        {
            "width": 512,  # of its tokens; [MAE], [mae_st]
            "depth": decoder_depth,  # number of blocks; [MAE], [mae_st]
            "heads": 16,  # attention heads; [MAE], [mae_st]
            "layout": "unshuffle",  # unshuffle (MAE, mae_st) | concat (VideoMAE)
            "positions": positions,  # separable | learned | sincos1d | sincos2d | sincos3d; as those of the encoder
            "cls": "own" if tubelet > 1 else "encoder",  # none | own (mae_st) | encoder (MAE)
            "embed_bias": True,  # a bias in the projection from the encoder's width; VideoMAE has none
            "norm_eps": 1e-6,  # of the layer norms
            "target_frames": 0,  # 0 predicts all frames; 8 of 16 is mae_st's
            "share": 1.0,  # fraction of the masked patches that a step predicts; half in VideoMAEv2
            "subsample": "random",  # random | cell (the running cell of VideoMAEv2)
        }
    )
    return c


def _optimizer():
    c = ml_collections.ConfigDict()
    c.base_lr = 1.6e-3  # learning rate at its peak, per 256 clips of a batch; [mae_st]
    c.min_lr = 0.0  # learning rate at the end of cosine and wsd; [mae_st]
    c.warmup = "5_percent"  # linear rise of the learning rate; [mae_st] 5 of 100 epochs
    schedule(c)
    c.b1, c.b2, c.eps = 0.9, 0.95, 1e-8  # [MAE], [mae_st], [VideoMAE]
    c.weight_decay = 0.05  # [MAE], [mae_st], [VideoMAE]; not on biases, norms, positions and tokens
    c.clip_norm = 0.02  # largest norm of the gradients; 0 for no gradient clipping; [mae_st]
    c.ema_decay = 0.0  # if above 0, evaluation uses an exponential moving average of the parameters
    return c


def schedule(c):
    """Sets the schedule of the learning rate in a config's optimizer, which pre-training and fine-tuning have."""
    # cosine | constant | wsd (warm-up, constant, cooldown: MiniCPM, arXiv 2404.06395); [mae_st], [VideoMAE]
    c.schedule = "cosine"
    c.cooldown = "10_percent"  # length of the cooldown of wsd; MiniCPM takes a tenth of the run, Hägele et al. up to a fifth
    c.cooldown_shape = "linear"  # linear (V-JEPA 2) | 1-sqrt (Hägele et al., arXiv 2405.18392: a lower loss than by linear)


def trackers() -> ml_collections.ConfigDict:
    """Returns the fields of the trackers of tasks that train, beside metrics.jsonl and TensorBoard."""
    return ml_collections.ConfigDict(
        {
            "wandb": "",  # project of Weights & Biases (extra wandb); '' for none
            "mlflow": "",  # URI of MLflow (extra mlflow): http://HOST:PORT, databricks, sqlite:///FILE; '' for none
            "run_name": "",  # of the run in both; '' takes the name of the workdir
        }
    )


def machine(task: str) -> ml_collections.ConfigDict:
    """Returns the fields of all tasks: the task, the seed, dtype and kernels, and the mesh."""
    c = ml_collections.ConfigDict()
    # pretrain | finetune | linear | attentive | knn | retrieval | extract | visualize | ablate; the config's argument sets it
    c.task = task
    c.seed = 0  # of the weights, the data order, views and masks
    c.dtype = "bfloat16"  # dtype of the computation: float32 | bfloat16; parameters, softmax and losses are always float32
    c.attention = "auto"  # auto | einsum | blocked | xla | cudnn (GPU) | lanes | splash (TPU); see cvmae/models/attention.py
    # none | dots | all_dots | kernels | full: the parts of a block to recompute in the backward pass, to save memory
    c.remat = "none"
    c.compilation_cache = "auto"  # of programs, for restarts: auto (the user's cache folder) | a folder | '' for none
    c.scan = False  # True runs the blocks by lax.scan: compile time does not grow with depth, the numbers stay the same
    c.mesh = ml_collections.ConfigDict(
        {
            "data": -1,  # devices that clips are sharded over; -1 takes all remaining devices
            "fsdp": 1,  # devices that clips and parameters are sharded over
            "model": 1,  # devices that heads and MLPs are sharded over
            "dcn": 1,  # pod slices, or machines, connected only by a network; each has data x fsdp x model devices
        }
    )
    # The mesh axes, joined by +, that this axis of parameters and activations is sharded over; '' replicates it
    c.sharding = ml_collections.ConfigDict(
        {"batch": "data+fsdp", "embed": "fsdp", "heads": "model", "mlp": "model", "tokens": "", "patch": ""}
    )
    # Optimizer state and EMA over the data axis (ZeRO-1): auto (arrays of 2**16 entries and more) | data (all) | replicated; numbers and
    # checkpoints are the same
    c.optimizer_sharding = "auto"
    return c


def base(variant: str = "B/16") -> ml_collections.ConfigDict:
    """Returns the default config of pre-training, with `variant` in both branches."""
    c = machine("pretrain")
    c.batch_size = 512  # global; negatives are taken from this batch
    c.accumulate = 1  # number of micro-batches; negatives are taken from the micro-batch
    c.total = "400_epochs"  # length of the run: epochs or steps
    c.log_every = "50_steps"  # epochs, steps or percent of the run, as all that follow
    c.eval_every = "20_epochs"  # evaluation on data.eval_split; 0_steps: never
    c.checkpoint_every = "5_epochs"  # of the whole state, to resume from
    c.checkpoint_keep = 2  # number of the newest checkpoints that are kept; of others, those of checkpoint_keep_every stay
    c.checkpoint_keep_every = "0_steps"  # interval of checkpoints that are never deleted, beside the newest; 0_steps: none
    c.profile = ""  # steps FIRST:LAST, such as 100:105, to write a trace of for XProf; see launch/README.md
    c.log = trackers()
    c.data = data_fields.data()
    c.augment = _augment()
    c.video_branch = _branch(variant, "separable", True, 2, 0.95, 4)  # [mae_st]; ratio [paper]
    c.image_branch = _branch(variant, "sincos2d", True, 1, 0.90, 8)  # [MAE]; ratio [paper]
    c.image_branch.frames = 1  # the number of frames sampled from a clip; [choice]
    c.image_branch.frame_sampling = "random"  # random | middle | first | uniform
    c.image_branch.crop = "shared"  # shared (with v) | independent
    c.image_branch.train = "full"  # full | frozen
    for branch in (c.video_branch, c.image_branch):
        # Weights to start from: a file (.pth of MAE, mae_st, VideoMAE; .safetensors), a folder of transformers, a hub id, a
        # workdir of this package, or an export of `python -m cvmae.interop`
        branch.init_from = ""
        branch.init_decoder = True  # also load the decoder, if the weights have one
    c.video_branch.inflate = "none"  # none | mean (I3D) | center (ViViT): inflation of an image encoder's weights to video
    # pixels | latent (ours, not in the paper): also predict a frozen teacher's features, weighted by loss.latent_video; SALT, arXiv 2509.24317
    c.video_branch.target = "pixels"
    c.video_branch.teacher = teacher()
    c.video_branch.train = "all"  # all | last:BLOCKS, which freezes the embedding and the blocks before these
    c.contrast = ml_collections.ConfigDict(
        {
            "temperature": 0.1,  # [CrossPoint]
            "width": 256,  # of the embeddings that are compared; [CrossPoint]
            "hidden": 0,  # width of the heads' hidden layers; 0: the encoder's width; [CrossPoint]
            "layers": 2,  # of a projection head; [CrossPoint]
            "time_reversed_negatives": False,  # ours, not in the paper
        }
    )
    # The terms are the table in cvmae/objective/terms.py; a config file can register its own and set c.loss.NAME.
    c.loss = ml_collections.ConfigDict({term.name: 1.0 for term in BUILT_IN})  # weight; 0 removes the term; [CrossPoint] 1 : 1
    c.loss_warmup = ml_collections.ConfigDict({term.name: "0_steps" for term in BUILT_IN})  # linear rise of the weight from 0
    # Workdir of a pre-training run, or WORKDIR/checkpoints/STEP, to go on from with its parameters, average and optimizer state; the
    # argument phase=cooldown sets the schedule for it
    c.cooldown = ml_collections.ConfigDict({"init_from": ""})
    c.optimizer = _optimizer()
    c.report = ml_collections.ConfigDict(
        {
            "pictures": 4,  # number of reconstructions to draw at the end
            "labelled": 0,  # number of training clips to fit a linear probe on at the end; 0 for no evaluation
            "clips": 0,  # number of held-out clips to score it on; 0: all
            "untrained": True,  # also evaluate the untrained encoder
        }
    )
    # Drift of the video encoder from its start, at every evaluation: see configs/adapt.py
    c.monitor = ml_collections.ConfigDict(
        {
            "clips": 0,  # number of held-out clips to compare on; 0: no monitor
            "collapse": 0.5,  # fraction of the start's feature deviation, or rank, below which a line warns; [choice]
        }
    )
    return c


def motion(c, size, frames, side):
    """Sets the data of a config to `motion`: clips of `frames` frames of `side`×`side` pixels, each used in full."""
    small_clips(c, frames, side)
    c.data.name, c.data.source, c.data.motion.size = "motion", "motion", size
    for split in ("eval_split", "test_split"):
        if split in c.data:
            c.data[split] = "test"
    c.data.clip_sampling = "middle"


def small_clips(c, frames, side):
    """Sets the sizes of data, views and decoders for `frames` frames of `side`×`side` pixels, and turns flips off."""
    c.dtype = "float32"
    c.data.num_frames, c.data.stride = frames, 1
    c.data.frame_size, c.augment.size = (side, side), (side, side)
    c.data.workers, c.data.threads, c.data.prefetch = 0, 1, 2
    if "flip" in c.augment:
        c.augment.flip = 0.0  # classes name left and right, or differ by the side that something moves to
    for branch in variants.branches(c):
        branch.decoder.width, branch.decoder.depth, branch.decoder.heads = 64, 1, 2
