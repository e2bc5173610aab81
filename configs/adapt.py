"""Continued pre-training on videos of your own, without labels, from published VideoMAE or MAE weights.

    python -m cvmae.main --config=configs/adapt.py --config.video_branch.init_from=MCG-NJU/videomae-base --config.data.manifest=mine.csv
    python -m cvmae.main --config=configs/adapt.py:start=mae --config.video_branch.init_from=facebook/vit-mae-base --config.data.manifest=mine.csv
    python -m cvmae.main --config=configs/adapt.py:contrast --config.video_branch.init_from=MCG-NJU/videomae-base --config.image_branch.init_from=facebook/vit-mae-base --config.data.manifest=mine.csv

`start` is videomae or mae, the weights that the video branch starts from: those of transformers as they are; authors' .pth files and
image MAEs of this package have other eps, and the refusal lists the flags to add. `contrast` adds the paper's intra- and cross-modal
terms, with a frozen MAE as image branch. `task` is pretrain, finetune, linear, attentive, knn, retrieval, extract or visualize. Every evaluation compares the encoder
with its start (`eval/drift/cka`, `cosine`, `std`), and a line warns where its features collapse: configs/README.md shows it on real
videos. We have not run it from published weights; its accuracy is unknown. `:runlocal` takes under a minute on any machine.

Sources: [ExPLoRA] arXiv 2406.10973, extended pre-training of ViTs on another domain; [Gupta et al.] arXiv 2308.04014 and
[Singh et al.] arXiv 2503.02844, learning rates of continued pre-training; others as in common.py.
"""

from cvmae.configs import common, downstream, variants

from cvmae.config import ConfigError, nearest

STARTS = ("videomae", "mae")
RECIPES = {"B": {"base_lr": 5e-4, "epochs": 50}}  # [VideoMAE] on SSv2 after 800 epochs


def get_config(arg=None):
    args = common.arguments(arg, start="videomae", contrast=False)
    if args.start not in STARTS:
        raise ConfigError(f"config argument start={args.start!r} is unknown: {nearest(args.start, STARTS)}")
    if args.task == "pretrain":
        c = common.base(args.variant)
        objective(c, args.contrast)
        {"videomae": from_videomae, "mae": from_mae}[args.start](c)
        schedule(c)
    else:
        c = downstream.base(args, RECIPES)
    return common.finish(c, args)


def objective(c, contrast):
    """Sets the terms of the loss: the reconstruction that the weights were trained by, or all terms with a frozen teacher."""
    variants.only_term(c, "mse_video")  # [ExPLoRA] continues the objective of the weights; it alone does not collapse
    if contrast:
        # [choice] a tenth of the paper's: the heads are new, and what they have not learned yet should not move the encoder
        c.loss.intra_video = c.loss.intra_frame = c.loss.cross_video = c.loss.cross_frame = 0.1
        c.image_branch.train = "frozen"  # [choice] a teacher that stays holds what the encoder knew of images


def from_videomae(c):
    """Sets the video branch to that of transformers' VideoMAE, decoder included."""
    video = c.video_branch
    variants.parent_encoder(c, "videomae")
    variants.videomae_decoder(video)
    video.eps, video.decoder.norm_eps = 1e-12, 1e-5  # of transformers; 1e-6 both in VideoMAE's own files
    # [choice] The last third of ViT-B. Early blocks and the embedding serve any domain. [ExPLoRA] trains 1 or 2 blocks and adapts the
    # others by LoRA, which is for fine-tuning here; so a few more blocks learn instead.
    video.train = "last:4"


def from_mae(c):
    """Sets the video branch to an image MAE of transformers, inflated; its decoder starts untrained."""
    video = c.video_branch
    video.inflate, video.eps = "mean", 1e-12
    video.mask.ratio = 0.9  # [mae_st]
    # Time is new to every block, so none is frozen.
    video.train = "all"


def schedule(c):
    """Sets the length of the run, the learning rate, and what is measured and kept on the way."""
    c.batch_size = 256  # [choice] small sets have few clips
    c.total = "50_epochs"  # [choice] short beside 800: the monitor tells when to stop
    # [choice] A tenth of VideoMAE's 1.5e-4. The weights' own schedule has ended near 0, so the rate has to rise again; a higher peak
    # adapts more and forgets more [Gupta et al.]; Singh et al. see the same of MAE.
    c.optimizer.base_lr = 1.5e-5
    # Its length hardly matters to the end [Gupta et al.]; the moments, which the weights come without, need some steps.
    c.optimizer.warmup = "5_percent"
    c.augment.scale = (0.5, 1.0)  # [mae_st]
    c.eval_every = "5_percent"
    c.monitor.clips = (
        512  # [choice] held-out clips: CKA of fewer than the width's 768 is high by chance, but so at every evaluation
    )
    c.checkpoint_keep_every = "20_percent"  # so that there is a step to go back to
    c.report.untrained = False
