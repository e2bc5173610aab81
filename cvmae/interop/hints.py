"""Settings of weights that a user gives: the heads that a file does not record, and the frames that the encoder is to take."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelHints:
    """Settings of weights that a user gives; 0 takes what the weights record, else that of the published models.

    Attributes:
      heads, decoder_heads: attention heads, which a file may not record; others than the recorded ones are refused.
      num_frames: frames of a clip. Where the weights are of another number, positions are made for it, see `resize.at_size`.
      size: (height, width) of its frames in pixels, or one number for a square; likewise.
      decoder: True if the decoder is wanted; if not, nothing about it needs to be known.
      recorded_first: True takes other heads that the weights record, or config.json by its defaults, without a word: for runs,
        which compare the whole encoder with theirs.

    Raises:
      ValueError: a number is no whole number of at least 0, or `size` is not one or two of them.
    """

    heads: int = 0
    decoder_heads: int = 0
    num_frames: int = 0
    size: int | tuple[int, int] = (0, 0)
    decoder: bool = True
    recorded_first: bool = False

    def __post_init__(self):
        for name in ("heads", "decoder_heads", "num_frames"):
            if not _is_count(value := getattr(self, name)):
                raise ValueError(f"ModelHints: {name} is {value!r}; expected a whole number, 0 for what the weights record")
        if not (_is_count(self.size) or _is_pair(self.size)):
            expected = "expected (height, width) in pixels, or one number for a square"
            raise ValueError(f"ModelHints: size is {self.size!r}; {expected}")

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of frames in pixels; (0, 0) if not given."""
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return height, width


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_pair(value) -> bool:
    """Returns True for two lengths, both or none of them 0."""
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_count, value)) and all(value) == any(value)


def give(*names: str) -> str:
    """Returns how a user of the command, and one of Python, gives fields of `ModelHints`."""
    flags = " and ".join("--image_size" if name == "size" else f"--{name}" for name in names)
    return f"{flags} to `python -m cvmae.interop import`, or to cvmae.load hints=cvmae.interop.ModelHints({'=..., '.join(names)}=...)"
