"""Manifests of the published data sets, from the label files and videos as people have them.

    python -m cvmae.data.prepare --dataset=ssv2 --videos=DIR --labels=DIR --out=DIR [--transcode=256] [--pack]

writes into --out, and nowhere else,

    manifest.csv    path,label,split[,start,end] of the videos that can be read; for UCF101 and HMDB51 split1.csv to split3.csv
    classes.csv     number,name of every class, in the official order, from 0: one numbering for all manifests
    report.csv      path,problem,detail of the videos that cannot be read, and of those that may not be the right ones
    videos          a link to --videos, or with --transcode=256
    videos256/      the videos again: short side 256, a keyframe every 12 frames or oftener, no sound
    packed/         with --pack: the same set in array_record shards, for data.source=tfds

Paths in a manifest start at its folder, so a config needs no data.root; who moves the videos turns the link. Labels are
class names, or empty where none are published.

A folder of classes without split folders (--dataset=folder) gets its val split by a draw: --val_share of the videos of each
class, the same videos for the same files, share and --seed. Where the draw is repeated into the same --out, videos that
were drawn before keep their split (.prepare/splits.json has it) and only new ones are drawn, so that videos may come and go.
A manifest that an earlier version of this package drew, each video by itself, keeps its draw, and the run says so.

A run may be interrupted at any moment; the same command goes on. What is done is known by the size and time of the files.
"""

from cvmae.data.prepare.run import DATASETS, Options, prepare
from cvmae.data.prepare.text import PrepareError
from cvmae.data.worker_pool import StopRun

__all__ = ["DATASETS", "Options", "PrepareError", "StopRun", "prepare"]
