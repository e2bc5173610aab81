"""What the numbers of pre-training's report are called: (name, title, whether it is a share that people read in %)."""

ROWS = (
    ("reconstruction/model", "held-out reconstruction error", False),
    ("accuracy/intra_video", "intra-modal accuracy, video level", True),
    ("accuracy/intra_frame", "intra-modal accuracy, frame level", True),
    ("accuracy/cross_video", "cross-modal accuracy, video level", True),
    ("accuracy/cross_frame", "cross-modal accuracy, frame level", True),
    ("retrieval/same_clip_r1", "retrieval of the same clip, R@1", True),
    ("retrieval/same_clip_r5", "retrieval of the same clip, R@5", True),
    ("retrieval/same_label_1nn", "nearest clip has the same label", True),
    ("probe/accuracy", "linear probe", True),
)
