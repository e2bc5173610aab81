"""State in OUT/.prepare that runs leave for later ones: a lock, answers, splits, and incomplete files to remove."""

import json
import os
import shutil

from cvmae.data.prepare.text import PrepareError
from cvmae.data.prepare.work import identity
from cvmae.files import local_folder

FOLDER = ".prepare"


class State:
    """State of the runs into a folder `out`, as a context manager that only one run at a time can enter.

    Attributes:
      temporary: folder for incomplete files, emptied at the start and removed at the end.
      has_older_split: True if an earlier version of this package wrote the manifest, and so did not keep its splits here.

    Raises:
      PrepareError: on entering, if `out` cannot be written or another run is in it.
    """

    def __init__(self, out: str):
        self._out, self._folder = out, os.path.join(local_folder(out, "prepare"), FOLDER)
        self.temporary = os.path.join(self._folder, "temporary")
        self._answers: dict[str, dict] = {}
        self._journal_path = os.path.join(self._folder, "answers.jsonl")
        self._splits_path = os.path.join(self._folder, "splits.json")

    def __enter__(self):
        try:
            os.makedirs(self._folder, exist_ok=True)
            self._lock = open(os.path.join(self._folder, "lock"), "w")
        except OSError as error:
            raise PrepareError(f"{self._folder}: {error.strerror}; --out must be a folder that can be written") from error
        if not _lock(self._lock):
            self._lock.close()
            raise PrepareError(f"{self._out}: another run is writing there; wait for it or take another --out")
        # The run that wrote these files has ended.
        shutil.rmtree(self.temporary, ignore_errors=True)
        os.makedirs(self.temporary, exist_ok=True)
        needed = (self._journal_path, os.path.join(local_folder(self._out, "prepare"), "manifest.csv"))
        self.has_older_split = all(map(os.path.exists, needed)) and not os.path.exists(self._splits_path)
        self._open_journal(self._journal_path)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.temporary, ignore_errors=True)
        self._journal.close()
        self._lock.close()

    def find_answer(self, job: dict) -> dict | None:
        """Returns an earlier run's answer to a job; None without one, or if the video or its re-encoded file has changed."""
        kept = self.recall(_key(job))
        if kept is None or kept["file"] != identity(job["path"]):
            return None
        return kept["answer"] if not job["side"] or kept["target"] == identity(job["target"]) else None

    def keep_answer(self, job: dict, answer: dict) -> None:
        """Keeps an answer for later runs."""
        target = identity(job["target"]) if job["side"] else None
        self.remember(_key(job), {"file": answer["file"], "target": target, "answer": answer})

    def recall(self, key: str) -> dict | None:
        """Returns the entry that this or an earlier run kept under a key; None without one."""
        return self._answers.get(key)

    def remember(self, key: str, entry: dict) -> None:
        """Keeps an entry under a key for later runs, in place of an earlier one."""
        self._answers[key] = entry
        self._journal.write(json.dumps([key, entry]) + "\n")
        self._journal.flush()

    def splits(self, draw: str) -> dict[str, str]:
        """Returns the splits by key that were kept under the name of a draw. Raises: PrepareError if they cannot be read."""
        return self._read_splits().get(draw, {})

    def keep_splits(self, draw: str, splits: dict[str, str]) -> None:
        """Keeps the splits of a draw, by key, for later runs; those of other draws and of removed videos stay."""
        draws = self._read_splits()
        draws[draw] = draws.get(draw, {}) | splits
        temporary = f"{self._splits_path}.part"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(draws, file, indent=0)
        os.replace(temporary, self._splits_path)

    def _read_splits(self):
        try:
            with open(self._splits_path, encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise PrepareError(
                f"{self._splits_path}: not JSON ({error}); it has the splits that were drawn. Restore it, or remove it and "
                f"{self._out}/manifest.csv to draw again"
            ) from error

    def _open_journal(self, path):
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                for line in file:
                    try:
                        key, kept = json.loads(line)
                    except json.JSONDecodeError:  # a run was killed while it wrote the line
                        continue
                    self._answers[key] = kept
        self._journal = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._journal.write("\n")  # ends a line that was cut off


def _key(job):
    return json.dumps([job["path"], job["check"], job["side"], job["measure"], job["target"]])


def _lock(file) -> bool:
    """Locks an open file until the process ends; returns False if it is locked. Always True on systems without locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
