"""Ablation studies: variants of one pre-training run, each changing one setting, over seeds, as a table and a plot.

    python -m cvmae.main --config=configs/ablate.py:study=masking --workdir=DIR      # on the demo's set, with its objective
    python -m cvmae.main --config=configs/ablate.py:study=objectives,base=motion,size=full --workdir=DIR
    python -m cvmae.main --config=configs/ablate.py:study=negatives,base=ssv2 --config.pretrain.data.manifest=ssv2/manifest.csv

`study` is masking, frames, objectives, negatives, decoder, views or first_view; `STUDIES` says what each changes, and whose
ablation it is (the axes are the paper's, the numbers of its tables are not quoted here). `base` is demo, motion, metaworld, ssv2,
k400, ucf101 or hmdb51; other parts of the argument are passed to the base: `variant`, `size`, `parent`, `runlocal`. The workdir of
a run is `WORKDIR/NAME-seedS`; the same command resumes after an interruption; the table is `WORKDIR/table.md`.

Fields of the base are set by `--config.pretrain.FIELD=VALUE`, those of the study by `--config.study.seeds='(0,1)'`, `measures`,
`variants` and `index`. `:study=masking,runlocal` runs two variants for two steps.
"""

import ml_collections
from cvmae.configs import demo, hmdb51, k400, metaworld, motion, ssv2, ucf101

from cvmae import objective
from cvmae.config import ConfigError, nearest, parse_arg

BASES = {"demo": demo, "motion": motion, "metaworld": metaworld, "ssv2": ssv2, "k400": k400, "ucf101": ucf101, "hmdb51": hmdb51}
TERMS = tuple(term.name for term in objective.TERMS)
REVERSED = "contrast.time_reversed_negatives"
MEASURES = ("reconstruction/model", "retrieval/same_clip_r1", "retrieval/same_label_1nn", "probe/accuracy")
ABOUT = {
    "masking": "mse_video",
    "decoder": "mse_video",
    "negatives": "intra_video",
    "views": "intra_video",
    "first_view": "intra_video",
    "frames": "cross_video",
}
STRONG_COLOR = {f"augment.{name}": 0.8 for name in ("brightness", "contrast", "saturation")}  # SimCLR's
OWN_VIEWS = "Retrieval of the same clip is between each variant's own two views, so rows are not comparable."
STEPS = "250_steps"  # [choice] length of a run on the demo's data set: minutes on two cores


def get_config(arg=None):
    items = list(filter(None, (arg or "").split(",")))
    study_items = [item for item in items if item.partition("=")[0] in ("study", "base", "runlocal")]
    args = parse_arg(",".join(study_items), study="", base="demo", runlocal=False)
    for name, known in (("study", STUDIES), ("base", BASES)):
        if args[name] not in known:
            raise ConfigError(f"config argument {name}={args[name]!r} is unknown: {nearest(args[name], known)}")
    c = ml_collections.ConfigDict({"task": "ablate"})  # a study; its argument `study` says which
    base_items = [item for item in items if item not in study_items]
    if args.runlocal:
        base_items.append("runlocal")
    c.pretrain = pretrain(args.base, ",".join(base_items))
    c.study = ml_collections.ConfigDict(
        {
            "name": args.study,
            "base": args.base,
            "seeds": (0, 1, 2),  # of every variant
            "measures": MEASURES,  # names of metrics in a run's report.json
            "index": -1,  # run only this one, from 0; -1 runs all, or the one that SLURM_ARRAY_TASK_ID names
        }
    )
    # Pairs of a name and {field of config.pretrain: value}, and the text below the table
    c.study.variants, c.study.note = STUDIES[args.study]()
    return miniature(c) if args.runlocal else c


def pretrain(base: str, arg: str):
    """Returns the base's pre-training config with a labeled report, and without evaluation during training and pictures."""
    c = BASES[base].get_config(arg)
    if c.task != "pretrain":
        raise ConfigError(f"config argument task={c.task!r}: a study pre-trains; leave task out")
    c.report.labelled, c.report.pictures = c.report.labelled or 1600, 0
    c.eval_every, c.checkpoint_keep = "0_steps", 1
    if base == "demo":
        c.total, c.checkpoint_every = STEPS, "50_steps"
    return c


def miniature(c):
    """Shrinks a study to two variants, one seed and two steps of a model of size `test`, with only the loss term it is about."""
    c.study.variants, c.study.seeds = c.study.variants[:2], (0,)
    c.pretrain.total, c.pretrain.checkpoint_every = "2_steps", "1_steps"
    c.pretrain.data.synthetic.clips = c.pretrain.report.labelled = 16
    for term in TERMS if c.study.name in ABOUT else ():
        c.pretrain.loss[term] = float(term == ABOUT[c.study.name])
    if c.study.name != "negatives":
        c.pretrain.contrast.time_reversed_negatives = False
    return c


def masking():
    """[paper] Mask ratios of video and image, 0.90 to 0.95 and 0.75 to 0.90 in the paper, and the kind of mask.

    Short runs on small clips need lower ratios than the paper's, so the ratios go down to 0.5.
    """

    def ratios(video, image, kind="random"):
        return {"video_branch.mask.kind": kind, "video_branch.mask.ratio": video, "image_branch.mask.ratio": image}

    pairs = ((0.5, 0.5), (0.95, 0.9), (0.75, 0.5), (0.95, 0.5), (0.5, 0.9), (0.75, 0.9))
    variants = [(f"video-{video:.2f}-image-{image:.2f}", ratios(video, image)) for video, image in pairs]
    variants += [(f"video-{kind}-0.50-image-0.50", ratios(0.5, 0.5, kind)) for kind in ("tube", "frame")]
    return tuple(variants), "Reconstruction errors are measured with each variant's own masks, so rows are not comparable."


def frames():
    """[paper] Sampling and number (F) of the frames that the image branch sees."""

    def sampled(count, sampling):
        return f"F{count}-{sampling}", {"image_branch.frames": count, "image_branch.frame_sampling": sampling}

    pairs = ((1, "random"), (1, "middle"), (1, "first"), (2, "random"), (2, "uniform"), (4, "uniform"))
    return tuple(sampled(*pair) for pair in pairs), ""


def objectives():
    """[paper] Loss terms alone and combined: intra- and cross-modal, video and frame level, with and without reconstruction.

    A term has the base's weight or 0; there are no time-reversed negatives.
    """
    contrast = [term for term in objective.TERMS if term.contrastive]
    intra, cross = ([term.name for term in contrast if len(term.branches) == branches] for branches in (1, 2))
    mse = [term.name for term in objective.TERMS if not term.contrastive]
    kept = {"mse": ["mse_video"]} | {term.name: [term.name] for term in contrast}
    kept |= {"contrast": [*intra, *cross], "mse+intra": [*mse, *intra], "mse+cross": [*mse, *cross], "all": TERMS}

    def without(terms):
        return {f"loss.{term}": 0.0 for term in TERMS if term not in terms} | {REVERSED: False}

    note = "`mse` alone reconstructs with the video branch only, with other terms with both. Without a decoder there is no error."
    return tuple((name, without(terms)) for name, terms in kept.items()), note


def negatives():
    """Time-reversed negatives, an option that the paper does not have, off and on, at two mask ratios of the video."""
    pairs = [(on, ratio) for ratio in (0.5, 0.75) for on in (False, True)]
    variants = tuple(
        (f"{'reversed' if on else 'paper'}-{ratio:.2f}", {REVERSED: on, "video_branch.mask.ratio": ratio}) for on, ratio in pairs
    )
    return variants, "Classes of `motion` are time-reversed pairs: this data set favors time-reversed negatives."


def decoder():
    """[parent] Depth of both decoders; SpatioTemporalMAE and VideoMAE have 4 blocks, MAE 8."""
    depths = (1, 2, 4, 8)
    return tuple((f"depth-{d}", {f"{b}_branch.decoder.depth": d for b in ("video", "image")}) for d in depths), ""


def views():
    """[paper] Crop and scale, and color jitter, which the paper names without numbers: each alone, neither, and stronger."""
    no_crop = {
        "augment.scale": (1.0, 1.0),
        "augment.plus_scale": (1.0, 1.0),
        "augment.ratio": (1.0, 1.0),
        "augment.plus_ratio": (1.0, 1.0),
    }
    no_color = {"augment.color_probability": 0.0}
    variants = {
        "crop+color": {},
        "crop": no_color,
        "color": no_crop,
        "none": no_crop | no_color,
        "small-crop+color": {"augment.plus_scale": (0.2, 1.0)},
        "crop+strong-color": STRONG_COLOR,
        "independent-frames": {"image_branch.crop": "independent"},
    }
    return tuple(variants.items()), OWN_VIEWS


def first_view():
    """The first view: cropped, raw as summaries of the paper have it, and with colors of its own, also at SimCLR's strength.

    Two views whose colors are alike can agree by them alone, without knowing what the clip shows.
    """
    both = {"augment.first_view": "color"}
    variants = {
        "crop": {},
        "raw": {"augment.first_view": "raw"},
        "color": both,
        "strong-color": both | STRONG_COLOR | {"augment.hue": 0.2, "augment.grayscale": 0.2},
    }
    return tuple(variants.items()), OWN_VIEWS


STUDIES = {f.__name__: f for f in (masking, frames, objectives, negatives, decoder, views, first_view)}
