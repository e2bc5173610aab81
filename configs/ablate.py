"""Ablations: the same pre-training with one thing at a time done otherwise, over seeds, as one table and one plot.

    python -m cvmae.main --config=configs/ablate.py:study=masking --workdir=DIR      # on the demo's set, with its objective
    python -m cvmae.main --config=configs/ablate.py:study=objectives,base=motion,size=full --workdir=DIR
    python -m cvmae.main --config=configs/ablate.py:study=negatives,base=ssv2 --config.pretrain.data.manifest=ssv2/manifest.csv

`study` is masking, frames, objectives, negatives, decoder or views; `STUDIES` says what each changes, and whose ablation it is
(the paper's axes are known, the numbers of its tables are not quoted here). `base` is demo, motion, ssv2, k400, ucf101 or
hmdb51; what else the argument says is the base's: `variant`, `size`, `parent`, `runlocal`. A run is `WORKDIR/NAME-seedS`; the
same command goes on after any interruption, and the table is `WORKDIR/table.md`.

Every field of the base is `--config.pretrain.FIELD=VALUE`; the study's own are `--config.study.seeds='(0,1)'`, `measures`,
`variants` and `index`. `:study=masking,runlocal` runs two variants for two steps.
"""

import ml_collections
from cvmae.configs import demo, hmdb51, k400, motion, ssv2, ucf101

from cvmae import objective
from cvmae.config import ConfigError, nearest, parse_arg

BASES = {"demo": demo, "motion": motion, "ssv2": ssv2, "k400": k400, "ucf101": ucf101, "hmdb51": hmdb51}
TERMS = tuple(term.name for term in objective.TERMS)
REVERSED = "contrast.time_reversed_negatives"
MEASURES = ("reconstruction/model", "retrieval/same_clip_r1", "retrieval/same_label_1nn", "probe/accuracy")
ABOUT = {
    "masking": "mse_video",
    "decoder": "mse_video",
    "negatives": "intra_video",
    "views": "intra_video",
    "frames": "cross_video",
}
STEPS = "250_steps"  # [choice] of a run on the demo's set: minutes on two cores


def get_config(arg=None):
    parts = list(filter(None, (arg or "").split(",")))
    mine = [part for part in parts if part.partition("=")[0] in ("study", "base", "runlocal")]
    args = parse_arg(",".join(mine), study="", base="demo", runlocal=False)
    for name, known in (("study", STUDIES), ("base", BASES)):
        if args[name] not in known:
            raise ConfigError(f"config argument {name}={args[name]!r} is unknown: {nearest(args[name], known)}")
    c = ml_collections.ConfigDict({"task": "ablate"})
    theirs = [part for part in parts if part not in mine] + ["runlocal"] * args.runlocal
    c.pretrain = pretrain(args.base, ",".join(theirs))
    c.study = ml_collections.ConfigDict(
        # variants: pairs of a name and {field of config.pretrain: value}. measures: of `trained` in a run's report.json. note:
        # below the table. index: this run alone, from 0; -1 is all of them, or the one that SLURM_ARRAY_TASK_ID names.
        {"name": args.study, "base": args.base, "seeds": (0, 1, 2), "measures": MEASURES, "index": -1}
    )
    c.study.variants, c.study.note = STUDIES[args.study]()
    return miniature(c) if args.runlocal else c


def pretrain(base: str, arg: str):
    """The base's pre-training, with what a study needs of it: a report, and nothing that only one run's reader wants."""
    c = BASES[base].get_config(arg)
    if c.task != "pretrain":
        raise ConfigError(f"config argument task={c.task!r}: a study pre-trains; leave task out")
    c.report.labelled, c.report.pictures = c.report.labelled or 1600, 0
    c.eval_every, c.checkpoint_keep = "0_steps", 1
    if base == "demo":
        c.total, c.checkpoint_every = STEPS, "50_steps"
    return c


def miniature(c):
    """Two variants, one seed, two steps of a model of size `test`, with the term that the study is about: that it runs."""
    c.study.variants, c.study.seeds = c.study.variants[:2], (0,)
    c.pretrain.total, c.pretrain.checkpoint_every = "2_steps", "1_steps"
    c.pretrain.data.synthetic.clips = c.pretrain.report.labelled = 16
    for term in TERMS if c.study.name in ABOUT else ():
        c.pretrain.loss[term] = float(term == ABOUT[c.study.name])
    if c.study.name != "negatives":
        c.pretrain.contrast.time_reversed_negatives = False
    return c


def masking():
    """[paper] Video x image masking ratio, 0.90 to 0.95 and 0.75 to 0.90 there, and the kind of mask.

    Short runs on small clips want lower ratios than the paper's, so these go down to 0.5.
    """

    def ratios(video, image, kind="random"):
        return {"video_branch.mask.kind": kind, "video_branch.mask.ratio": video, "image_branch.mask.ratio": image}

    pairs = ((0.5, 0.5), (0.95, 0.9), (0.75, 0.5), (0.95, 0.5), (0.5, 0.9), (0.75, 0.9))
    variants = [(f"video-{video:.2f}-image-{image:.2f}", ratios(video, image)) for video, image in pairs]
    variants += [(f"video-{kind}-0.50-image-0.50", ratios(0.5, 0.5, kind)) for kind in ("tube", "frame")]
    return tuple(variants), "Reconstruction errors are each under the variant's own masks, so they do not compare between rows."


def frames():
    """[paper] Which frames of the clip the image branch sees, and how many (F)."""

    def sampled(count, sampling):
        return f"F{count}-{sampling}", {"image_branch.frames": count, "image_branch.frame_sampling": sampling}

    pairs = ((1, "random"), (1, "middle"), (1, "first"), (2, "random"), (2, "uniform"), (4, "uniform"))
    return tuple(sampled(*pair) for pair in pairs), ""


def objectives():
    """[paper] Each term alone and joined: intra- and cross-modal, video and frame level, with and without reconstruction.

    A term has the base's weight or 0, and no clip is played backwards.
    """
    contrast = [term for term in objective.TERMS if term.contrastive]
    intra, cross = ([term.name for term in contrast if len(term.branches) == branches] for branches in (1, 2))
    mse = [term.name for term in objective.TERMS if not term.contrastive]
    kept = {"mse": ["mse_video"]} | {term.name: [term.name] for term in contrast}
    kept |= {"contrast": [*intra, *cross], "mse+intra": [*mse, *intra], "mse+cross": [*mse, *cross], "all": TERMS}

    def without(terms):
        return {f"loss.{term}": 0.0 for term in TERMS if term not in terms} | {REVERSED: False}

    note = "`mse` is reconstruction by the video branch alone, with other terms by both. Without a decoder there is no error."
    return tuple((name, without(terms)) for name, terms in kept.items()), note


def negatives():
    """Ours, not the paper's: the clip played backwards as one more negative, off and on, at two masking ratios of the video."""
    pairs = [(on, ratio) for ratio in (0.5, 0.75) for on in (False, True)]
    variants = tuple(
        (f"{'reversed' if on else 'paper'}-{ratio:.2f}", {REVERSED: on, "video_branch.mask.ratio": ratio}) for on, ratio in pairs
    )
    return variants, "Classes of `motion` are time-reversed pairs: that set flatters reversed negatives."


def decoder():
    """[parent] Depth of both decoders; SpatioTemporalMAE's and VideoMAE's videos take 4 blocks, MAE's images 8."""
    depths = (1, 2, 4, 8)
    return tuple((f"depth-{d}", {f"{b}_branch.decoder.depth": d for b in ("video", "image")}) for d in depths), ""


def views():
    """[paper] Crop, scale and color jitter, which it names without numbers: each alone, neither, and stronger."""
    whole = {
        "augment.scale": (1.0, 1.0),
        "augment.plus_scale": (1.0, 1.0),
        "augment.ratio": (1.0, 1.0),
        "augment.plus_ratio": (1.0, 1.0),
    }
    strong = {f"augment.{name}": 0.8 for name in ("brightness", "contrast", "saturation")}
    gray = {"augment.color_probability": 0.0}
    variants = {
        "crop+color": {},
        "crop": gray,
        "color": whole,
        "none": whole | gray,
        "small-crop+color": {"augment.plus_scale": (0.2, 1.0)},
        "crop+strong-color": strong,
        "independent-frames": {"image_branch.crop": "independent"},
    }
    note = "Retrieval of the same clip is between the variant's own two views, so it does not compare between rows."
    return tuple(variants.items()), note


STUDIES = {f.__name__: f for f in (masking, frames, objectives, negatives, decoder, views)}
