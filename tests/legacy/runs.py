"""The runs whose workdirs are kept: {workdir: (config, fields that are set)}, each after those that it starts from.

Workdirs and `init_from` are relative to the folder that the archive is unpacked in.
"""

CLIPS = {
    "data.synthetic.clips": 8,
    "data.num_frames": 4,
    "data.frame_size": (20, 20),
    "augment.size": (16, 16),
    "video_branch.variant": "test/8",
    "batch_size": 4,
}
STEPS = {"total": "4_steps", "eval_every": "2_steps", "checkpoint_every": "4_steps"}
PRETRAIN = CLIPS | {
    "image_branch.variant": "test/8",
    "video_branch.decoder.width": 16,
    "image_branch.decoder.width": 16,
    "contrast.width": 16,
    # Steps large enough to tell numbers apart, and none of what Adam makes of a gradient that is nothing but rounding.
    "optimizer.base_lr": 0.3,
    "optimizer.warmup": "1_steps",
    "optimizer.clip_norm": 1.0,
    "optimizer.eps": 1e-3,
}
START = {"init_from": "pretrain"}
GRID = {"probe.rates": (1e-2,), "probe.weight_decays": (0.1,), "test.crops": 1}

RUNS = {
    "pretrain": ("ssv2.py:runlocal", PRETRAIN | STEPS | {"report.pictures": 1, "report.labelled": 8}),
    # Stopped by SIGTERM after three of six steps. Two terms, which need both branches, and a small decoder: quicker to compile.
    "stopped": (
        "ssv2.py:runlocal",
        PRETRAIN
        | {f"loss.{term}": 0.0 for term in ("mse_image", "intra_video", "intra_frame", "cross_frame")}
        | {"total": "6_steps", "eval_every": "3_steps", "checkpoint_every": "3_steps"}
        | {"seed": 3, "report.pictures": 0, "video_branch.decoder.depth": 0},
    ),
    "finetune": (
        "ssv2.py:task=finetune,runlocal",
        CLIPS | STEPS | START | {"augment.rand_augment.layers": 1, "optimizer.ema_decay": 0.5, "test.crops": 1},
    ),
    "linear": ("ssv2.py:task=linear,runlocal", CLIPS | STEPS | START | GRID | {"probe.rates": (1e-2, 1e-3)}),
    "attentive": ("ssv2.py:task=attentive,runlocal", CLIPS | STEPS | START | GRID | {"probe.blocks": 0}),
    "knn": ("ssv2.py:task=knn,runlocal", CLIPS | START | {"knn.neighbours": (1, 3)}),
    "retrieval": ("ssv2.py:task=retrieval,runlocal", CLIPS | START),
    "extract": ("ssv2.py:task=extract,runlocal", CLIPS | START | {"data.synthetic.clips": 2}),
    "shards": (
        "ssv2.py:task=extract,runlocal",
        CLIPS | START | {"data.synthetic.clips": 2, "extract.format": "array_record", "extract.tokens": "slots"},
    ),
    "visualize": (
        "ssv2.py:task=visualize,runlocal",
        CLIPS
        | START
        | {"visualize.clips": 1, "visualize.ratios": (0.5,), "visualize.columns": 2, "visualize.formats": ("png",)}
        | {"visualize.embedded": 8, "visualize.queries": 2, "visualize.gallery": 8, "visualize.neighbours": 2},
    ),
    "study": (
        "ablate.py:study=masking,base=ssv2,runlocal",
        {f"pretrain.{name}": value for name, value in PRETRAIN.items()} | {"study.seeds": (0, 1), "pretrain.report.labelled": 8},
    ),
}
