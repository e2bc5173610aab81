"""Published data sets: their sizes, quoted from their authors, to compare with the videos at hand, and the command for each."""

# Something-Something V2: the data set's page and its label files. Kinetics-400: arXiv 1705.06950 (306,245 clips, 50 a class for
# val and 100 for test). Kinetics-600 and -700: arXiv 1808.01340 and 1907.06987, which give 50 and 100 a class; no number
# for train is quoted, since releases differ. Diving48: the files of its version 2. Jester: Materzynska et al. 2019. ImageNet-1K: Russakovsky
# et al., arXiv 1409.0575. UCF101 and HMDB51: the rows of their split files. Meta-World is rendered: the numbers of
# cvmae/data/metaworld with its defaults.
COUNTS = {
    "ssv2": {"manifest": {"train": 168_913, "val": 24_777, "test": 27_157}},
    "k400": {"manifest": {"train": 246_245, "val": 20_000, "test": 40_000}},
    "k600": {"manifest": {"val": 30_000, "test": 60_000}},
    "k700": {"manifest": {"val": 35_000, "test": 70_000}},
    "ucf101": {
        "split1": {"train": 9_537, "test": 3_783},
        "split2": {"train": 9_586, "test": 3_734},
        "split3": {"train": 9_624, "test": 3_696},
    },
    "hmdb51": {f"split{n}": {"train": 3_570, "test": 1_530} for n in (1, 2, 3)},
    "diving48": {"manifest": {"train": 15_027, "test": 1_970}},
    "jester": {"manifest": {"train": 118_562, "val": 14_787, "test": 14_743}},
    "imagenet": {"manifest": {"train": 1_281_167, "val": 50_000, "test": 100_000}},
    "metaworld": {"task": {"train": 5_000, "val": 500, "test": 1_250, "test_unseen": 1_250}},
    "folder": {},
}
CLASSES = {"ssv2": 174, "k400": 400, "k600": 600, "k700": 700, "ucf101": 101, "hmdb51": 51, "metaworld": 50}
CLASSES |= {"diving48": 48, "jester": 27, "imagenet": 1000}
NOTES = {"k400": "videos vanish from YouTube: VideoMAE's copy, for one, has 240,436 for train and 19,796 for val (quoted)"}
NOTES["imagenet"] = (
    "a class is numbered by its place among the sorted WordNet ids that are here; with fewer than 1,000 the numbers are the published "
    "ones only where --labels has LOC_synset_mapping.txt"
)


def how_to_prepare(name: str) -> str:
    """Returns the end of a message that names the command that writes the manifest of a data set; empty for unknown names."""
    return f"; `python -m cvmae.data.prepare --dataset={name} --out=DIR` writes it, see --help" if name in CLASSES else ""
