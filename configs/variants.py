"""Changes that the arguments `parent`, `stage`, `phase`, `fast`, `exportable` and `runlocal` make to any config; see `common.finish`."""

from ml_collections.config_dict import placeholder

from cvmae.config import UNTRAINED, ConfigError
from cvmae.tasks.model_fields import RUNLOCAL_SIZE

PARENTS = ("videomae", "mae_st", "mae")
STAGES = ("image",)
PHASES = ("cooldown",)
SMALLEST = "test/16"  # the variant of `runlocal`


def parent_encoder(c, name):
    """Sets the video encoder and the normalization of pixels to those of one of PARENTS."""
    if name == "videomae":
        c.video_branch.positions, c.video_branch.cls_token, c.video_branch.qkv_bias = "sincos1d", False, "qv"
    if name == "mae_st":
        c.augment.mean, c.augment.std = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


def parent(c, name):
    """Sets the rest of a pre-training config to one of PARENTS, except the fields of the data set.

    `videomae` and `mae_st` train only the video branch, `mae` only the image branch, on sampled frames.
    """
    only_term(c, "mse_image" if name == "mae" else "mse_video")
    video, image = c.video_branch, c.image_branch
    if name == "videomae":
        videomae_decoder(video)
        c.optimizer.base_lr, c.optimizer.clip_norm = 1.5e-4, 0.0
    if name == "mae_st":
        video.mask.ratio, video.mask.rounding, video.decoder.target_frames = 0.9, "down", c.data.num_frames // 2
    if name == "mae":
        image.mask.ratio, image.mask.rounding = 0.75, "down"
        c.augment.scale, c.optimizer.base_lr, c.optimizer.clip_norm = (0.2, 1.0), 1.5e-4, 0.0


def videomae_decoder(video):
    """Sets the masks, the targets and the decoder of a video branch to VideoMAE's."""
    video.decoder.positions, video.target_norm = "sincos1d", "patch_channel"
    video.mask.kind, video.mask.ratio = "tube", 0.9
    video.decoder.width, video.decoder.heads = 384, 6
    video.decoder.layout, video.decoder.cls, video.decoder.embed_bias = "concat", "none", False


def only_term(c, name):
    """Sets the weights of all loss terms but one to 0, and no probe and monitor of the video encoder where that is not trained."""
    for term in c.loss:
        c.loss[term] = float(term == name)
    if name == "mse_image":
        c.report.labelled = c.monitor.clips = 0


def check_pretraining(c, args, name):
    """Raises ConfigError if an argument of pre-training is given for another task."""
    if args[name] and c.task != "pretrain":
        raise ConfigError(f"config argument {name}={args[name]} is of task=pretrain, this is task={c.task}: leave it out")


def image_stage(c, args):
    """Sets a pre-training config to stage 0, if its argument `stage` asks for it: the image MAE that the image branch starts from.

    Fields of its encoder and decoder stay, so that `image_branch.init_from` takes its weights, and so do crops and optimizer;
    `parent=mae` has MAE's.
    """
    check_pretraining(c, args, "stage")
    if args.stage:
        only_term(c, "mse_image")
        c.image_branch.mask.ratio = 0.75  # [MAE]
        c.image_branch.frames = min(4, c.data.num_frames)  # [choice] more images from each clip that is decoded


def cooldown(c, args):
    """Sets a pre-training config to cool down the run of config.cooldown.init_from, if its argument `phase` asks for it.

    The learning rate falls from that of the run, at its step, to `min_lr` over all steps, without a warm-up: the moments of the
    gradients go on. As in V-JEPA 2 (arXiv 2506.09985), whose 12k steps of cooldown follow 240k, with 64 frames instead of 16.
    """
    check_pretraining(c, args, "phase")
    if not args.phase:
        return
    optimizer = c.optimizer
    optimizer.schedule, optimizer.warmup, optimizer.cooldown = "wsd", "0_steps", "100_percent"
    c.loss_warmup.update(dict.fromkeys(c.loss_warmup, "0_steps"))
    del c.total, c.seed, optimizer.base_lr, optimizer.ema_decay
    c.total = placeholder(str)  # of the run: epochs or steps; unset: a twentieth of the run that is cooled down
    c.seed = placeholder(int)  # of the data order, views and masks; unset: that of the run that is cooled down, plus 1
    optimizer.ema_decay = placeholder(float)  # of the moving average, 0 for none; unset: that of the run that is cooled down
    optimizer.base_lr = placeholder(float)  # per 256 clips of a batch; unset: that of the run that is cooled down, at its step


def fast(c, args):
    """Makes a pre-training config cheaper on accelerators, if its argument `fast` asks for it: another recipe, not measured.

    Heads of 128 fill the registers of a TPU, where the default's 32 take the same time for a quarter of the work; a decoder whose width is
    no multiple of 128 has the widest below that divide it (see `widest_heads`). A step predicts half of the masked patches (VideoMAEv2);
    and the video branch, which takes most of the time, has the tanh approximation of GELU. The image branch keeps the exact one, which
    weights of MAE need. A decoder from weights needs `decoder.heads` of its own.
    """
    check_pretraining(c, args, "fast")
    for branch in branches(c) if args.fast else ():
        branch.decoder.heads, branch.decoder.share = widest_heads(branch.decoder.width), 0.5
    if args.fast:
        c.video_branch.mlp = "gelu_tanh"


def widest_heads(width):
    """Returns the number of heads, as few as divide `width` into heads of at most 128: 4 for 512, 2 for 192, 1 for 64.

    Wider ones would fill more registers, but cuDNN's attention takes no more than 128.
    """
    return next(heads for heads in range(1, width + 1) if width % heads == 0 and width // heads <= 128)


def exportable(c, args):
    """Gives the video encoder positions and tokens that transformers' VideoMAE has, if the argument `exportable` asks for it.

    A downstream task takes them from its weights and compares: weights of another encoder are refused.
    """
    if args.exportable:
        c.video_branch.positions, c.video_branch.cls_token = "sincos1d", False  # the export hf-videomae


def branches(c):
    """Returns the branches with a decoder: both in pre-training, none in downstream tasks."""
    return [c[name] for name in ("video_branch", "image_branch") if name in c and "decoder" in c[name]]


def runlocal(c, args):
    """Shrinks a config to 8 steps of a `test`-size model on synthetic clips: under a minute on any CPU, without data.

    The argument `variant` sets another size. A downstream task with `init_from` takes the encoder of its weights, of any size.
    """
    c.batch_size, c.dtype = 8, "float32"
    if "accumulate" in c:
        c.accumulate = 1
    if "total" in c:
        c.total, c.log_every, c.eval_every, c.checkpoint_every = "8_steps", "1_steps", "4_steps", "2_steps"
    c.data.source, c.data.num_frames, c.data.stride = "synthetic", 4, 1
    c.data.frame_size, c.augment.size = (40, 40), RUNLOCAL_SIZE
    c.data.workers = 0
    if c.task == "pretrain":
        _small_branches(c, args.explicit_variant or SMALLEST)
    else:
        c.init_from = UNTRAINED
        del c.video_branch.variant
        c.video_branch.variant = placeholder(str)  # size and side of a patch, compared with those of the weights
        if args.explicit_variant:
            c.video_branch.variant = args.explicit_variant
        c.video_branch.untrained_variant = SMALLEST  # the variant of an untrained encoder, where `variant` is open
    if "heads" in c.get("probe", {}):
        c.probe.heads = 2
        c.probe.layers = (-2, -1)[-len(c.probe.layers) :]  # of 2 blocks
        c.probe.clips = min(c.probe.clips, 2)
    if "visualize" in c:
        c.visualize.clips, c.visualize.embedded, c.visualize.queries, c.visualize.gallery = 2, 16, 4, 16
    return c


def _small_branches(c, variant):
    """Sets the encoders of both branches of pre-training to a variant, and their decoders to one block."""
    if c.video_branch.get("train", "all") != "all":
        c.video_branch.train = "last:1"
    for branch in branches(c):
        branch.variant = variant
        branch.mask.ratio = 0.5
        branch.decoder.width, branch.decoder.depth, branch.decoder.heads = 32, 1, 2
        branch.decoder.target_frames = 0
