"""Jester: 27 hand gestures before a laptop, 148 thousand videos of 3 seconds.

    python -m cvmae.data.prepare --dataset=jester --videos=20bn-jester-v1 --labels=DIR --out=jester --transcode=256
    python -m cvmae.main --config=configs/jester.py:task=attentive --config.init_from=DIR --config.data.manifest=jester/manifest.csv
    python -m cvmae.main --config=configs/jester.py:task=finetune --config.init_from=DIR --config.data.manifest=jester/manifest.csv

`task` is pretrain, finetune, linear, attentive, knn, retrieval, extract or visualize. The attentive probe is V-JEPA 2's
(configs/eval/vitl/jester.yaml of facebookresearch/vjepa2), which reads four blocks of the encoder and 4 clips together, but for
its clips of 32 frames with a stride of 2, which are longer than the videos; frames, pre-training and fine-tuning are those of Something-Something V2, whose
videos have 12 frames per second too [choice]; the linear probe has no published protocol [choice]. Gestures have a direction, so nothing is flipped: `--config.augment.flip=0.5
--config.augment.mirror_labels=True` flips clips and exchanges left and right, clockwise and counterclockwise, in their labels. We have not
run it; its accuracy is unknown (quoted: V-JEPA 2 reports a probe on Jester). `:runlocal` takes under a minute on any machine.
"""

from cvmae.configs import common, downstream

RECIPES = {"B": {"base_lr": 5e-4, "epochs": 50}}  # [choice] VideoMAE's on Something-Something V2


def get_config(arg=None):
    args = common.arguments(arg)
    if args.task == "pretrain":
        c = common.base(args.variant)
        c.total = "800_epochs"  # [choice] VideoMAE's on Something-Something V2
        c.optimizer.warmup = "40_epochs"  # [choice] VideoMAE's on Something-Something V2
    else:
        c = downstream.base(args, RECIPES)
        if args.task != "visualize":
            c.data.clip_sampling = "uniform"  # [choice] a frame of each of 16 segments, as on Something-Something V2
    c.data.name = "jester"
    c.data.stride = 2  # [choice] 16 x 2 of about 36 frames
    if "flip" in c.augment:
        c.augment.flip = 0.0  # gestures to the left and the right are two classes, as are clockwise and counterclockwise
    downstream.motion_probe(c)
    return common.finish(c, args)
