"""What a run leaves for the next one in OUT/.prepare: a lock, answers known already, and half-written files to remove."""

import json
import os
import shutil

from cvmae.data.prepare.text import PrepareError
from cvmae.data.prepare.work import identity

FOLDER = ".prepare"


class State:
    """The state of the runs into one folder `out`, which is made. A context: one run at a time is in it.

    temporary: a folder for files that are not whole yet. has_older_split: an earlier version of this package has written
    the manifest, and drawn its splits without keeping them here. Raises: PrepareError on entering, if another run is in it.
    """

    def __init__(self, out: str):
        self._out, self._folder = out, os.path.join(out, FOLDER)
        self.temporary = os.path.join(self._folder, "temporary")
        self._answers, self._lock, self._journal = {}, None, None
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
        # Whoever wrote these is gone.
        shutil.rmtree(self.temporary, ignore_errors=True)
        os.makedirs(self.temporary, exist_ok=True)
        needed = (self._journal_path, os.path.join(self._out, "manifest.csv"))
        self.has_older_split = all(map(os.path.exists, needed)) and not os.path.exists(self._splits_path)
        self._open_journal(self._journal_path)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.temporary, ignore_errors=True)
        self._journal.close()
        self._lock.close()

    def known(self, asked: dict) -> dict | None:
        """The answer that an earlier run got to this job, if the file is the same and what was made of it is still there."""
        kept = self._answers.get(_key(asked))
        if kept is None or kept["file"] != identity(asked["path"]):
            return None
        return kept["answer"] if not asked["side"] or kept["target"] == identity(asked["target"]) else None

    def keep(self, asked: dict, answer: dict) -> None:
        """Keeps an answer for later runs."""
        target = identity(asked["target"]) if asked["side"] else None
        kept = {"file": answer["file"], "target": target, "answer": answer}
        self._journal.write(json.dumps([_key(asked), kept]) + "\n")
        self._journal.flush()

    def splits(self, draw: str) -> dict[str, str]:
        """Returns the splits by key that earlier runs drew under this name of a draw. Raises: PrepareError."""
        return self._read_splits().get(draw, {})

    def keep_splits(self, draw: str, splits: dict[str, str]) -> None:
        """Keeps the splits of a draw for later runs, beside those of videos that are gone and of other draws."""
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
        self._journal.write("\n")  # what was cut off stays apart from what comes


def _key(asked):
    return json.dumps([asked["path"], asked["check"], asked["side"], asked["measure"], asked["target"]])


def _lock(file) -> bool:
    """Locks an open file; the lock ends with the process. Where the system has no such locks, everyone is let in."""
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
