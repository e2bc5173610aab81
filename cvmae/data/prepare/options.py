"""Options of a preparation, and the data sets that it knows."""

import dataclasses

from cvmae.data.prepare import work
from cvmae.data.prepare.labels import diving48, hmdb51, jester, kinetics, ssv2, ucf101
from cvmae.data.prepare.text import PrepareError
from cvmae.storage.client import check_scheme

READERS = dict.fromkeys(("k400", "k600", "k700"), kinetics.read)
READERS |= {"ssv2": ssv2.read, "ucf101": ucf101.read, "hmdb51": hmdb51.read}
READERS |= {"diving48": diving48.read, "jester": jester.read}
DATASETS = (*READERS, "imagenet", "folder")
WITHOUT_LABELS = ("imagenet", "folder")  # whose folders may be the labels
RUNNERS = ("local", "beam")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a run. The fields are the flags of `python -m cvmae.data.prepare`; its --help describes them.

    Raises: PrepareError or ConfigError if a value is out of range.
    """

    dataset: str
    videos: str
    out: str
    labels: str = ""
    transcode: int = 0
    check: str = "quick"
    pack: bool = False
    runner: str = "local"
    workers: int = 0
    timeout_s: float = 600.0
    val_share: float = 0.1
    seed: int = 0
    beam_options: str = ""
    pictures: bool = False

    def __post_init__(self):
        for field, choices in (("dataset", DATASETS), ("check", work.CHECKS), ("runner", RUNNERS)):
            if getattr(self, field) not in choices:
                raise PrepareError(f"--{field}={getattr(self, field)} is unknown: give one of {', '.join(choices)}")
        for field, is_valid, expected in (
            ("videos", self.videos, "the folder with the videos"),
            ("out", self.out, "a folder for the manifests"),
            ("labels", self.labels or self.dataset in WITHOUT_LABELS, "the folder or file with the label files"),
            ("transcode", self.transcode == 0 or (self.transcode >= 16 and self.transcode % 2 == 0), "even, 16 or more, or 0"),
            ("val_share", 0 <= self.val_share < 1, "a share, 0 or more and less than 1"),
            ("workers", self.workers >= 0, "a number of processes, 0 for one per core"),
            ("timeout_s", self.timeout_s >= 0, "seconds, 0 for no limit"),
        ):
            if not is_valid:
                raise PrepareError(f"--{field}={getattr(self, field)} must be {expected}")
        for field in ("videos", "labels", "out"):
            check_scheme(getattr(self, field), f"--{field}=", is_written=field == "out")
        if self.labels and self.dataset == "folder":
            raise PrepareError(
                f"--labels={self.labels} does not apply to --dataset=folder, whose folders are the labels; leave it out"
            )
        if self.beam_options and self.runner != "beam":
            raise PrepareError(f"--beam_options does not apply to --runner={self.runner}: set --runner=beam, or leave it out")
        if self.pictures and self.dataset != "folder":
            raise PrepareError(f"--pictures does not apply to --dataset={self.dataset}: it is an option of folder; leave it out")
        if self.transcode and (self.pictures or self.dataset == "imagenet"):
            raise PrepareError(
                f"--transcode={self.transcode} does not apply to pictures, which are read as they are; leave it out"
            )
