"""Small config of the input pipeline for the tests of this folder."""

import ml_collections


def small_config(**changes) -> ml_collections.ConfigDict:
    """Returns a config of 4-frame clips of 16x24 pixels from synthetic data, in batches of 4; `a__b=v` sets the field a.b."""
    config = ml_collections.ConfigDict(
        {
            "seed": 0,
            "batch_size": 4,
            "augment": {"plus_shift": 0},
            "image_branch": {"frames": 1, "frame_sampling": "random"},
            "data": {
                "source": "synthetic",
                "manifest": "",
                "root": "",
                "split": "train",
                "eval_split": "val",
                "num_frames": 4,
                "stride": 1,
                "fps": 0.0,
                "frame_size": (16, 24),
                "fit": "crop",
                "clip_sampling": "random",
                "workers": 0,
                "threads": 0,
                "prefetch": 1,
                "timeout_s": 10.0,
                "max_bad_fraction": 0.5,
                "tfds": {"name": "", "data_dir": "", "video_feature": "video", "label_feature": "label"},
                "motion": {"size": "easy", "side": 0, "cache_dir": "", "train_clips": 0, "test_clips": 0, "seed": 0},
                "synthetic": {"clips": 10, "classes": 3},
            },
        }
    )
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config.lock()
