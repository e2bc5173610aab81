"""Preparation of the published data sets and of folders of videos: checked, re-encoded, listed in manifests, packed.

    python -m cvmae.data.prepare --dataset=ssv2 --videos=DIR --labels=DIR --out=DIR [--transcode=256] [--pack]

writes only into --out:

    manifest.csv    path,label,split[,start,end] of the videos that can be read; for UCF101 and HMDB51 split1.csv to split3.csv
    classes.csv     number,name of every class, in the official order, from 0: one numbering for all manifests
    report.csv      path,problem,detail of the videos that cannot be read, and of those that may be other videos than listed
    videos          a link to --videos, or with --transcode=256
    videos256/      the re-encoded videos: short side 256, a keyframe at least every 12 frames, no sound
    packed/         with --pack: the videos and labels in array_record shards, for data.source=tfds

Pictures (--dataset=imagenet, or folder with --pictures) are read as they are, each a clip of one frame. Folders of numbered frames, as
Jester is published, become videos by --transcode.

Paths in a manifest are relative to its folder, so a config needs no data.root; if the videos move, only the link changes.
Labels are class names, or empty where none are published.

A folder of classes without split folders (--dataset=folder) gets its val split by a draw: --val_share of the videos of each
class, the same videos for the same files, share and --seed. Where the draw is repeated into the same --out, videos that
were drawn before keep their split (.prepare/splits.json has it) and only new ones are drawn, so that videos may come and go.
A manifest that an earlier version of this package drew, each video by itself, keeps its draw, and the run says so.

A run may be interrupted at any moment; the same command continues it. Files whose size and modification time are unchanged
are not processed again.
"""

from cvmae.data.prepare.options import DATASETS, Options
from cvmae.data.prepare.run import prepare
from cvmae.data.prepare.text import PrepareError
from cvmae.data.worker_pool import StopRun

__all__ = ["DATASETS", "Options", "PrepareError", "StopRun", "prepare"]
