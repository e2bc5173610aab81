"""Something-Something V2.

    python -m cvmae.main --config=configs/ssv2.py:variant=B/16 --config.data.manifest=ssv2/manifest.csv --workdir=DIR
    python -m cvmae.main --config=configs/ssv2.py:fast --config.remat=kernels --config.data.manifest=ssv2/manifest.csv --workdir=DIR
    python -m cvmae.main --config=configs/ssv2.py:task=finetune --config.init_from=DIR --config.data.manifest=ssv2/manifest.csv

`fast` changes the recipe for accelerators: decoder heads of 128, half of the masked patches in a step, tanh GELU (configs/README.md).
`task` is pretrain, finetune, linear, attentive, knn, retrieval, extract or visualize. We have not run it to its end; its
accuracy is unknown (quoted: VideoMAE's own ViT-B fine-tunes to 69.6 % after 800 epochs and 70.8 % after 2400). Protocols: fine-tuning
is VideoMAE's (2 x 3 views), the attentive probe V-JEPA 2's (configs/eval/vitl/ssv2.yaml of facebookresearch/vjepa2), which
reads 2 clips together, but for their frames: there 16 with a stride of 4, so that the clips of a video of under 64 frames, as most are, are
the same one; here, as in fine-tuning, a frame of each of 16 segments, others in each clip [choice]. `--config.data.clip_sampling=random` takes
theirs. The linear probe has no published protocol for videos [choice]. `:runlocal` takes under a minute on any machine.
"""

from cvmae.configs import common, downstream

RECIPES = {
    "S": {"base_lr": 1e-3, "batch_size": 384, "epochs": 40, "layer_decay": 0.7, "repeats": 2},  # [VideoMAE]
    "B": {"base_lr": 5e-4, "epochs": 50},  # [VideoMAE] after 800 epochs
    "L": {"base_lr": 5e-4, "epochs": 20, "drop_path": 0.2},  # [VideoMAEv2]; its batch is not published: 512
}


def get_config(arg=None):
    args = common.arguments(arg)
    if args.task == "pretrain":
        c = common.base(args.variant)
        c.data.stride = 2  # [VideoMAE] 16 x 2: clips are often under 4 s at 12 frames per second
        c.total = "800_epochs"  # [VideoMAE] the shorter of its two schedules, 800 and 2400
        c.optimizer.warmup = "40_epochs"  # [VideoMAE]
    else:
        c = downstream.base(args, RECIPES)
        if args.task == "visualize":
            c.data.clip_sampling = "middle"  # consecutive frames with the stride of pre-training
        else:
            c.data.clip_sampling = "uniform"  # [VideoMAE] a frame of each of 16 segments
        if args.task in ("extract", "visualize"):
            c.data.stride = 2
    c.data.name = "ssv2"
    if "flip" in c.augment:
        c.augment.flip = 0.0  # class names contain left and right
    if "test" in c:
        c.test.clips = 2  # [VideoMAE] 2 x 3
    if args.task == "attentive":
        c.probe.clips = 2  # [V-JEPA 2] 2 x 3
    return common.finish(c, args)
