"""What a run of W&B has written offline: its `.wandb` file, a log of LevelDB's form with one protocol buffer a record."""

import collections
import json
import pathlib
import struct

BLOCK = 32768
HEADER = 7  # of the file (":W&B", a number, a version), and of a part of a record (checksum, length, kind)
FULL, FIRST, MIDDLE, LAST = range(1, 5)


def records(path: pathlib.Path):
    """Yields the records of a file, of one that was cut short those that are whole."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined] # made at import

    content, position, begun = path.read_bytes(), HEADER, b""
    assert content.startswith(b":W&B")
    while position + HEADER <= len(content):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        part = content[position + HEADER : position + HEADER + length]
        if len(part) < length or kind not in (FULL, FIRST, MIDDLE, LAST):
            return
        begun = part if kind in (FULL, FIRST) else begun + part
        position += HEADER + length
        if kind in (FULL, LAST):
            yield Record.FromString(begun)


class OfflineRun:
    """A folder `offline-run-TIME-ID`."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.id = folder, folder.name.rpartition("-")[2]
        found = collections.defaultdict(list)
        for record in records(next(folder.glob("run-*.wandb"))):
            found[record.WhichOneof("record_type")].append(record)
        self.records = found

    def lines(self) -> list[dict]:
        """The logged values in their order, without W&B's own."""
        logged = [_values(record.history.item) for record in self.records["history"]]
        return [{name: value for name, value in line.items() if not name.startswith("_")} for line in logged]

    def config(self) -> dict:
        return {name: value for record in self.records["run"] for name, value in _values(record.run.config.update).items()}

    def summary(self) -> dict:
        return {name: value for record in self.records["summary"] for name, value in _values(record.summary.update).items()}

    @property
    def exit_codes(self) -> list[int]:
        return [record.exit.exit_code for record in self.records["exit"]]


def _values(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def offline_runs(workdir) -> list[OfflineRun]:
    """The runs that the processes of a workdir have made, in their order."""
    return [OfflineRun(folder) for folder in sorted((pathlib.Path(workdir) / "wandb").glob("offline-run-*"))]
