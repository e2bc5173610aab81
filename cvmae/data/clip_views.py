"""Multi-view loading: several clips and crops of every record, for tests and for features."""

import dataclasses
from typing import ClassVar

import numpy as np

from cvmae.data.clips import ClipView
from cvmae.data.manifest import UNLABELED
from cvmae.data.pipeline import Loader, Reader, evaluation_reader, padded_loader
from cvmae.data.records import Source


@dataclasses.dataclass(frozen=True)
class TestViews:
    """Views of every record in a test: `clips` evenly spaced clips, and `crops` evenly spaced crops of each.

    Where config.probe.clips are read together, `clips` counts such groups.

    Published clips × crops: 2 × 3 on SSv2, 5 × 3 on Kinetics and UCF101 (VideoMAE), 10 × 3 (mae_st).

    Raises:
      ValueError: a number below 1.
    """

    __test__: ClassVar[bool] = False  # its name does not make it a test case for pytest
    __test__ = False  # the name begins like that of a test class, which pytest would collect
    clips: int = 1
    crops: int = 1

    def __post_init__(self):
        for field in ("clips", "crops"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")


def make_view_loader(config, source: Source, batch_size: int, views: TestViews, start: int = 0, **shard) -> Loader:
    """Makes a deterministic loader of every clip of `views` once, in order: example i is clip i % clips of record i // clips.

    Clips are placed as in `clips.clip_indices` (`random` sampling is replaced by `middle`), crops as in `clips.fit_frames`.
    Several clips of one record are decoded separately, those that are read together (config.probe.clips) at once. A batch is a dict of

        video     uint8 [b, crops, T, H0, W0, 3]
        label     int32 [b]      -1: unlabeled
        index     int64 [b]      record in the source
        clip      int32 [b]      number of the clip within its record
        valid     bool [b]       False for padding of the last batch and for records that cannot be read
        failures  uint8 [b, 512] records that cannot be read (see `bad_files`), zeros for none

    Examples that are not valid hold zeros, with label -1.

    Args:
      config: the config; `data` and the fields of `clip_spec` are used.
      source: the records.
      batch_size: examples of a global batch.
      views: clips per record and crops per clip.
      start: number of the first example, to resume interrupted work.
      **shard: process_index and process_count, see `pipeline.padded_loader`.

    Raises:
      ValueError: several crops, where config.data.fit does not crop.
    """
    if views.crops > 1 and config.data.fit != "crop":
        raise ValueError(f"crops={views.crops} needs data.fit=crop, got {config.data.fit!r}: set one of the two")
    return padded_loader(_ViewExamples(evaluation_reader(config, source), views), batch_size, config.data, start, **shard)


@dataclasses.dataclass(frozen=True)
class _ViewExamples:
    reader: Reader
    views: TestViews

    def __len__(self):
        return len(self.reader.source) * self.views.clips

    def read(self, number):
        index, clip = divmod(number, self.views.clips)
        view = ClipView(clip, self.views.clips, self.views.crops)
        record, crops = self.reader.cut(index, np.random.default_rng(0), view)
        return _example(crops, record.label, index, clip)

    def blank(self, number):
        index, clip = divmod(number, self.views.clips)
        return _example([self.reader.blank_clip()] * self.views.crops, UNLABELED, index, clip)


def _example(crops, label, index, clip):
    return {"video": np.stack(crops), "label": np.int32(label), "index": np.int64(index), "clip": np.int32(clip)}
