"""The fields of `config.data` of all configs, with their defaults; see common.py for the sources in brackets."""

import ml_collections
from ml_collections.config_dict import FieldReference, placeholder

from cvmae.data.mixture import SAMPLING_FIELDS, SOURCE_FIELDS


def data():
    """Returns the fields of the data: source, splits, sampling of clips, and loading."""
    c = ml_collections.ConfigDict()
    # The published data set, such as ssv2 or k400, from which plan and bench take the numbers of clips and classes if the data is
    # not available; '' for any other.
    c.name = ""
    c.source = "files"  # files | tfds | webdataset | hf | motion | synthetic | custom (of `cvmae.run(..., source=...)`)
    # Several sources by weight, for pre-training: 'ssv2:1.0,k400:2.0', with the fields in which ssv2 differs in data.sources.ssv2, ...;
    # the argument sources=ssv2+k400 of a config makes these sections, of equal weights
    c.mixture = ""
    c.sources = ml_collections.ConfigDict()
    # For files: CSV or JSON lines with path, label, split, and optionally start and end (seconds); it and its paths may be in a bucket
    c.manifest = ""
    c.root = ""  # folder of the manifest's relative paths; '' is the manifest's folder
    c.multi_label = False  # True: labels separated by ; in the manifest; head.loss=sigmoid and probe.loss=sigmoid set it
    # True: pictures in folders and tar shards are clips of one frame repeated; False leaves them out, such as thumbnails of videos
    c.pictures = False
    # Splits may be sliced, with the same fraction of every class: train[:1%], train[90%:], train[:400] (clips).
    c.split, c.eval_split = "train", "val"
    c.num_frames, c.stride = 16, 4  # frames of a clip, and frames of the video from one to the next; [mae_st], [VideoMAE]
    c.fps = 0.0  # if above 0, the stride counts frames at this rate, independent of the file's
    c.frame_size = (256, 256)  # height and width of frames sent to the accelerator, before the crop
    c.square_pixels = True  # apply the aspect ratio of a file's pixels where its frames are resized; False takes them as square
    c.fit = "crop"  # crop | stretch | pad: how a frame of another aspect ratio is fitted to frame_size
    c.clip_sampling = "random"  # random | middle | uniform
    # Processes that decode, on each host; 0 decodes in the training process, auto measures a few clips and takes what the host has
    c.workers = FieldReference(8, field_type=object)
    c.threads = FieldReference(1, field_type=object)  # threads in each of them; or auto
    c.prefetch = 2  # batches decoded ahead, in each of them
    # Files in buckets (gs://, s3://, hf://) are copied into this local folder, which processes and runs may share; '' reads them again
    # each time. Beyond cache_gb, the copies that were read longest ago are deleted.
    c.cache_dir = ""
    c.cache_gb = 100.0  # size of cache_dir, in 10^9 bytes
    c.timeout_s = 30.0  # a file that takes longer to decode counts as unreadable
    c.max_bad_fraction = 0.01  # the run stops if a larger fraction of the split's files cannot be read
    c.allow_change = False  # True resumes although the training data (files, labels) changed since the checkpoint, and says so
    c.tfds = ml_collections.ConfigDict(
        {
            "name": "",  # of a data set of tensorflow-datasets
            "data_dir": "",  # '' for the default of tensorflow-datasets
            "video_feature": "video",  # name of its feature that holds frames
            "label_feature": "label",  # name of its feature that holds class numbers
        }
    )
    c.motion = ml_collections.ConfigDict(
        {
            "size": "easy",  # easy | full: number of classes, and defaults of the fields below
            "side": 0,  # height and width of the videos; 0: the default of the size
            "cache_dir": "",  # folder that the set is drawn into; '' for the user's cache folder
            "train_clips": 0,  # 0: the default of the size
            "test_clips": 0,  # 0: the default of the size
            "seed": 0,  # of the drawn clips
        }
    )
    # Tar shards by a pattern with {0000..0099}, {a,b} and *; {split} in it is the name of the split
    c.webdataset = ml_collections.ConfigDict({"shards": ""})
    c.hf = ml_collections.ConfigDict(
        {
            "path": "",  # hub id or folder of a Hugging Face data set, or a pattern of Parquet files with {split}
            "config": "",  # name of a configuration of that set; '' for its only one
            "video": "video",  # column of videos: the feature Video, encoded bytes, or paths
            "label": "label",  # column of class numbers or names; '' for no labels
        }
    )
    # Random clips, for tests and trial runs
    c.synthetic = ml_collections.ConfigDict({"clips": 64, "classes": 4})
    return c


def section(data):
    """Returns the section of a source of a mixture: the fields that it may change, all of them as in `data`."""
    c = ml_collections.ConfigDict()
    for name in (name for name in (*SOURCE_FIELDS, *SAMPLING_FIELDS) if name in data):
        value = data[name]
        nested = isinstance(value, ml_collections.ConfigDict)
        fields = {field: placeholder(type(value[field])) for field in value} if nested else placeholder(type(value))
        c[name] = ml_collections.ConfigDict(fields) if nested else fields
    return c
