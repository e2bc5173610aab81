"""Uploads the folder of an export to the Hugging Face hub; what is about to go is shown first."""

import dataclasses
import pathlib

from cvmae.interop.hub import PREFIX, repository_of
from cvmae.interop.model_card import CARD
from cvmae.interop.pretrained import first_line

EXPORTED = ("*.safetensors", "*.npz", "*.onnx")  # a folder with none of them holds no weights


class PushError(ValueError):
    """An upload that the hub or the user's settings refuse; the message is one line with the remedy."""


@dataclasses.dataclass(frozen=True)
class Upload:
    """An upload before it is made: its files and its repository.

    Attributes:
      folder: the export.
      repository: `owner/name` on the hub.
      private: True for a repository that only its owner sees; of one that is there already its own visibility stays.
      files: {path in the folder: bytes}, all that is uploaded.
      left_out: hidden files and links, which stay here.
    """

    folder: pathlib.Path
    repository: str
    private: bool
    files: dict[str, int]
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, folder, to: str, private: bool = False) -> "Upload":
        """Lists the files of an export.

        Args:
          folder: what `python -m cvmae.interop export` or `import` wrote.
          to: `hf:owner/name`.
          private: see the class.

        Raises:
          FileNotFoundError: there is no such folder.
          ValueError: it is no export, or `to` is no hub id.
        """
        folder = pathlib.Path(folder)
        repository = repository_of(to) if to.startswith(PREFIX) and "@" not in to else ""
        if not repository:
            raise ValueError(f"--to={to} is no place on the hub: expected hf:USER/NAME")
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}: give one that `python -m cvmae.interop export` wrote")
        if not (folder / CARD).is_file() or not any(file for pattern in EXPORTED for file in folder.glob(pattern)):
            why = f"it holds not both {CARD} and one of {', '.join(EXPORTED)}"
            raise ValueError(f"{folder} is no export, {why}: give a folder that `python -m cvmae.interop export` wrote")
        files, left_out = {}, []
        for file in sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()):
            name = file.relative_to(folder).as_posix()
            if file.is_symlink() or any(part.startswith(".") for part in name.split("/")):
                left_out.append(name)
            else:
                files[name] = file.stat().st_size
        return cls(folder, repository, private, files, tuple(left_out))

    def lines(self) -> list[str]:
        """Returns what is going to happen, for people: the repository, its visibility, files and sizes."""
        sees = "private: only you and those you let in see it" if self.private else "public: everyone sees it"
        width = max(map(len, self.files))
        return [
            f"to {_endpoint()}/{self.repository}, {sees}",
            *(f"  {name:<{width}}  {_amount(size)}" for name, size in self.files.items()),
            *(f"  {name:<{width}}  left out: hidden, or a link" for name in self.left_out),
            f"{len(self.files)} files, {_amount(sum(self.files.values()))}",
        ]


def _amount(size: int) -> str:
    for unit, bytes_of_unit in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_of_unit:
            return f"{size / bytes_of_unit:.1f} {unit}"
    return f"{size} bytes"


def _hub():
    """Returns huggingface_hub with its modules `constants` and `errors`. Raises: PushError, it is not installed."""
    try:
        import huggingface_hub

        # Its attributes are lazy and these modules none of them, until something imports them.
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise PushError("uploads need huggingface_hub: pip install 'crossvideomae[hub]'") from error
    return huggingface_hub


def _endpoint() -> str:
    return _hub().constants.ENDPOINT


def push(upload: Upload, update: bool = False) -> str:
    """Creates the repository and uploads the files in one commit.

    Args:
      upload: what goes where.
      update: True replaces files of a repository that is there already; else such a one is an error.

    Returns:
      The address of the model.

    Raises:
      PushError: there is no token, the name is taken, the token does not allow it, or the hub cannot be reached.
    """
    hub = _hub()
    token, done = hub.get_token(), "nothing was uploaded"
    if token is None:
        raise PushError("no token for the hub: log in with `hf auth login`, or set HF_TOKEN, a token that may write")
    api = hub.HfApi(token=token)
    try:
        api.create_repo(upload.repository, private=upload.private, exist_ok=update)
        done = f"{upload.repository} is there, and not all of the files: the same command with --update uploads the rest"
        api.upload_folder(
            repo_id=upload.repository,
            folder_path=upload.folder,
            commit_message="Upload an export of cvmae",
            allow_patterns=[_literal(name) for name in upload.files],
        )
    # HTTPError is that of the client below; OSError are a connection's, ValueError refuses metadata, RuntimeError is hf_xet's.
    except (hub.errors.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise PushError(f"{upload.repository}: {_reason(error, upload.repository)} ({done})") from error
    return f"{_endpoint()}/{upload.repository}"


def _literal(name: str) -> str:
    """Returns a pattern of fnmatch that a name alone matches."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _reason(error: Exception, repository: str) -> str:
    """Returns why the hub did not take it, and the remedy, in one line."""
    owner = repository.partition("/")[0]
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status == 409:
        return "the name is taken, by a repository that is there already: give another name, or --update to replace its files"
    if status == 401:
        return "the hub does not know the token: log in again with `hf auth login`, or set another HF_TOKEN"
    if status == 403:
        return f"the token has no permission to write there: give a token that may write for {owner}, or a name of your own"
    if status is None and isinstance(error, _hub().errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the hub is not asked: unset it"
    if status is None and not isinstance(error, ValueError):
        return f"the hub at {_endpoint()} could not be reached: check the network ({first_line(error)})"
    return f"the hub refused it{'' if status is None else f' with status {status}'} ({first_line(error)})"
