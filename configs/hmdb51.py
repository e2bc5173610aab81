"""HMDB51, one of its official splits.

    python -m cvmae.main --config=configs/hmdb51.py:variant=B/16 --config.data.manifest=hmdb51/split1.csv --workdir=DIR
    python -m cvmae.main --config=configs/hmdb51.py:task=finetune --config.init_from=DIR --config.data.manifest=hmdb51/split1.csv

`task` is pretrain, finetune, linear, attentive, knn, retrieval, extract or visualize. No recipe for HMDB51 has been published
for this model size: pre-training and fine-tuning are those of UCF101, another small data set of short clips, with the stride of
2 of VideoMAEv2's fine-tuning on HMDB51, and half of UCF101's fine-tuning epochs (VideoMAEv2's giant model takes 15 epochs on
HMDB51 and 50 on UCF101). We have not run it; its accuracy is unknown. Probes have no published
protocol, and take V-JEPA 2's for Kinetics [choice]; that of retrieval is UCF101's. `:runlocal` takes under a minute on any machine.
"""

from cvmae.configs import common, ucf101

RECIPES = {"B": ucf101.RECIPES["B"] | {"epochs": 50}}  # [choice]


def get_config(arg=None):
    args = common.arguments(arg)
    return common.finish(ucf101.small_set(args, RECIPES, stride=2, name="hmdb51"), args)
