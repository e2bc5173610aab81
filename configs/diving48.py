"""Diving48, version 2: 48 dives, which differ by the order of their movements, in 17 thousand videos.

    python -m cvmae.data.prepare --dataset=diving48 --videos=rgb --labels=DIR --out=diving48 --transcode=256
    python -m cvmae.main --config=configs/diving48.py:task=attentive --config.init_from=DIR --config.data.manifest=diving48/manifest.csv
    python -m cvmae.main --config=configs/diving48.py:task=finetune --config.init_from=DIR --config.data.manifest=diving48/manifest.csv

`task` is pretrain, finetune, linear, attentive, knn, retrieval, extract or visualize. The attentive probe is V-JEPA 2's
(configs/eval/vitl/diving48.yaml of facebookresearch/vjepa2), which reads four blocks of the encoder and 4 clips together, but for its
encoder's 32 frames with a stride of 2: 16 with a stride of 4 span the same time [choice]. No recipe for Diving48 has been published for
VideoMAE's size: pre-training and fine-tuning are those of UCF101, another small data set [choice]; the linear probe has no published
protocol [choice]. Dives to either side are of one
class, so clips are flipped. We have not run it; its accuracy is unknown (quoted: the probe of V-JEPA 2's ViT-L reaches 89.0 %).
`:runlocal` takes under a minute on any machine.
"""

from cvmae.configs import common, downstream, ucf101


def get_config(arg=None):
    args = common.arguments(arg)
    c = ucf101.small_set(args, ucf101.RECIPES, stride=4, name="diving48")
    downstream.motion_probe(c)
    return common.finish(c, args)
