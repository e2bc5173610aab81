"""Run by test_devices with eight devices: bytes of the collectives of a step by the sharding of the optimizer's state, as JSON."""

import collections
import json
import sys

from cvmae.performance import hlo, hlo_cost
from tests.tiny_configs import config, downstream, make_task


def sizes(c) -> dict[str, int]:
    program = hlo.parse(make_task(c).lower().compile().as_text())
    total: collections.Counter[str] = collections.Counter()
    for one in hlo_cost.collectives(program, 8):
        total[one.kind] += one.bytes * one.times
    return dict(total)


def configs(mode: str) -> dict:
    mesh = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__model": 2}
    return {
        "pretrain": config(("mse_video",), optimizer__ema_decay=0.9, optimizer_sharding=mode, **mesh),
        "attentive": downstream("attentive", optimizer_sharding=mode),
    }


if __name__ == "__main__":
    every = {mode: {name: sizes(c) for name, c in configs(mode).items()} for mode in ("replicated", "data")}
    with open(sys.argv[1], "w") as file:
        json.dump(every, file)
