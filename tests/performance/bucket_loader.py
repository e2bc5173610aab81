"""Times the loader on a bucket of a server on localhost, against the same loader on local files, in alternation.

    python -m tests.performance.bucket_loader gs 15

The arguments are the server (`gs`: fake-gcs-server; `s3`: moto, which is written in Python) and optionally rounds (15). It encodes 8 videos of 300
frames of 340x256 in H.264, as `cvmae.bench --decode` does, and two processes read clips of 16 frames with stride 4, from single files and
from tar shards. The server runs on the cores that decode.
"""

import pathlib
import sys
import tempfile

from cvmae.config import load
from cvmae.data.prepare.tar_writer import write_shards
from cvmae.data.sources import make_source
from cvmae.performance.bench_loader import time_loader
from cvmae.performance.bench_videos import H264, VideoSpec, write_videos
from cvmae.performance.timing import Times, ratio
from tests.servers import serving, upload
from tests.tiny_configs import CONFIGS

BATCH, BATCHES = 8, 12


def write_set(folder: pathlib.Path) -> None:
    """Writes videos, their manifest list.csv, and the same in shards, train-*.tar."""
    files, shards = folder / "files", folder / "shards"
    files.mkdir()
    shards.mkdir()
    paths = write_videos(files, H264, VideoSpec(count=8))["mp4"]
    rows = [f"{path.name},{number % 4},train" for number, path in enumerate(paths)]
    (files / "list.csv").write_text("\n".join(["path,label,split", *rows, ""]))
    write_shards(str(files / "list.csv"), str(shards), shard_bytes=1 << 21)


def open_set(place: str, kind: str):
    """Opens the set of `write_set` at a local folder or in a bucket, from its `files` or its `shards`: the config and the source."""
    c = load(str(CONFIGS / "ssv2.py")).unlock()
    c.batch_size, c.data.workers, c.data.threads, c.data.prefetch = BATCH, 2, 1, 1
    if kind == "files":
        c.data.manifest = f"{place}/files/list.csv"
    else:
        c.data.source, c.data.webdataset.shards = "webdataset", f"{place}/shards/{{split}}-*.tar"
    return c.lock(), make_source(c.data, "train")


def main(scheme: str, rounds: int = 15) -> None:
    """Prints the clips per second from local disk and from the server, and the median ratio, for files and for shards."""
    with tempfile.TemporaryDirectory() as name, serving(scheme) as bucket:
        write_set(pathlib.Path(name))
        upload(name, bucket)
        for kind in ("files", "shards"):
            sets = {"local disk": open_set(name, kind), "server": open_set(bucket, kind)}
            seconds: dict[str, list[tuple[float, float]]] = {place: [] for place in sets}
            for _ in range(rounds):
                for place, (c, source) in sets.items():
                    seconds[place].append(time_loader(c, source, BATCHES, []))
            times = {place: Times(*zip(*pairs)) for place, pairs in seconds.items()}
            rates = ", ".join(f"{place} {BATCH * BATCHES / t.median():.1f} clips/s" for place, t in times.items())
            print(f"{kind}: {rates}, ratio {ratio(times['local disk'], times['server'], 'wall'):.2f}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
