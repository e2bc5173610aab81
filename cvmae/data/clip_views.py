"""Several clips and crops of every record, for multi-view tests and for features."""

import dataclasses
from typing import ClassVar

import numpy as np

from cvmae.data.clips import ClipView
from cvmae.data.manifest import UNLABELED
from cvmae.data.pipeline import Loader, Reader, evaluation_reader, padded_loader
from cvmae.data.sources import Source


@dataclasses.dataclass(frozen=True)
class TestViews:
    """`clips` evenly spread clips of every record, and `crops` evenly spaced crops of each clip.

    Published tests: 2 × 3 on SSv2, 5 × 3 on Kinetics and UCF101 (VideoMAE), 10 × 3 (mae_st).
    """

    __test__: ClassVar[bool] = False  # its name does not make it a test case for pytest
    clips: int = 1
    crops: int = 1

    def __post_init__(self):
        for field in ("clips", "crops"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")


def make_view_loader(config, source: Source, batch_size: int, plan: TestViews, start_row: int = 0, **share) -> Loader:
    """Every clip of the plan once, in order: row r is clip r % clips of record r // clips; the same each time.

    Clips lie as `clips.clip_indices` says (`random` sampling counts as `middle`), crops as `clips.fit_frames` says. Rows before
    `start_row` are left out, so that interrupted work can go on. A batch is a dict of

        video     uint8 [b, crops, T, H0, W0, 3]
        label     int32 [b]      -1: unlabeled
        index     int64 [b]      record in the source
        clip      int32 [b]      which of its clips
        valid     bool [b]       False for the rows that fill up the last batch, and for records that cannot be read
        failures  uint8 [b, 512] records that cannot be read (see bad_files), zeros for none

    Rows that are not valid hold zeros, label -1. Several clips of one record are decoded one by one. share: process_index and
    process_count, see `pipeline.padded_loader`.

    Raises: ValueError where the plan does not fit config.data.
    """
    if plan.crops > 1 and config.data.fit != "crop":
        raise ValueError(f"crops={plan.crops} needs data.fit=crop, got {config.data.fit!r}: set one of the two")
    return padded_loader(_ViewRows(evaluation_reader(config, source), plan), batch_size, config.data, start_row, **share)


@dataclasses.dataclass(frozen=True)
class _ViewRows:
    reader: Reader
    plan: TestViews

    def __len__(self):
        return len(self.reader.source) * self.plan.clips

    def read(self, number):
        index, clip = divmod(number, self.plan.clips)
        view = ClipView(clip, self.plan.clips, self.plan.crops)
        record, crops = self.reader.cut(index, np.random.default_rng(0), view)
        return _row(crops, record.label, index, clip)

    def blank(self, number):
        index, clip = divmod(number, self.plan.clips)
        return _row([self.reader.blank_clip()] * self.plan.crops, UNLABELED, index, clip)


def _row(crops, label, index, clip):
    return {"video": np.stack(crops), "label": np.int32(label), "index": np.int64(index), "clip": np.int32(clip)}
