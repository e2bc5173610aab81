"""Two tiny tensorflow-datasets data sets, built without TensorFlow: one of encoded files, one of frames."""

import numpy as np
import tensorflow_datasets as tfds


class NumberedFiles(tfds.core.GeneratorBasedBuilder):
    """Encoded videos as the bytes of a Text feature; `files` is a list of paths."""

    VERSION = tfds.core.Version("1.0.0")
    files: list[str] = []  # noqa: RUF012

    def _info(self):
        features = tfds.features.FeaturesDict(
            {"video": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["down", "up", "wave"])}
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, path in enumerate(self.files):
            with open(path, "rb") as file:
                yield i, {"video": file.read(), "label": i % 3}


class NumberedFrames(tfds.core.GeneratorBasedBuilder):
    """Decoded videos of 6 frames; frame t of video i is 10 i + t throughout."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "frames": tfds.features.Tensor(shape=(6, 16, 24, 3), dtype=np.uint8),
                "kind": tfds.features.Scalar(dtype=np.int64),
                "text": tfds.features.Text(),
                "score": tfds.features.Scalar(dtype=np.float32),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(5):
            frames = np.broadcast_to((10 * i + np.arange(6, dtype=np.uint8))[:, None, None, None], (6, 16, 24, 3))
            yield i, {"frames": frames, "kind": 7 * i, "text": "", "score": 0.5}
