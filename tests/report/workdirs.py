"""Small workdirs written by hand, as runs leave them."""

import csv
import json
import pathlib

import numpy as np
from PIL import Image

EVIL = '<script>document.title = "taken"</script><img src="x" onerror="document.title = 1">&amp;\'" {{ 7 * 7 }}'
START = {
    "time": "2026-11-23T10:02:18+00:00",
    "step": 0,
    "command": "python -m cvmae.main --config=configs/demo.py",
    "commit": "0123456789ab",
    "versions": {"jax": "0.10.2"},
    "devices": "1 x cpu (cpu)",
}


def metrics(steps: int, scale: float = 1.0) -> list[dict]:
    """Lines of metrics.jsonl of a run of pre-training, one for every step, with an evaluation every fifth."""
    lines = []
    for step in range(1, steps + 1):
        values = {"loss/mse_video": scale / step, "accuracy/intra_video": step / steps, "feature_std/video": 0.5}
        values |= {
            "optimizer/learning_rate": 1e-3 * step / steps,
            "time/clips_per_second": 100.0 + step,
            "time/seconds": 2.0 * step,
        }
        lines.append({"step": step, **values, "data/replaced_clips": 3})
        if step % 5 == 0:
            lines.append({"step": step, "eval/loss/mse_video": 1.1 * scale / step})
    return lines


def picture(path: pathlib.Path, width: int = 64) -> None:
    """A picture in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.linspace(0, 255, width * 48 * 3).reshape(48, width, 3).astype(np.uint8)).save(path)


def pretrained(folder: pathlib.Path, scale: float = 1.0, **config) -> pathlib.Path:
    """A finished run of pre-training."""
    write(
        folder / "config.json",
        {"task": "pretrain", "total": "20_steps", "loss": {"mse_video": 1.0}, "video_branch": {"variant": "mini/8"}} | config,
    )
    write_lines(folder, metrics(20, scale))
    trained, untrained = ({"probe/accuracy": p, "reconstruction/model": m} for p, m in ((0.864, 0.643 * scale), (0.352, 1.26)))
    write(folder / "report.json", {"task": "pretrain", "metrics": trained, "baseline": untrained, "details": {}})
    write(folder / "environment.json", {"starts": [START, START | {"step": 10}]})
    picture(folder / "reconstruction.png", 900)
    return folder


def probed(folder: pathlib.Path, classes=("up", "down")) -> pathlib.Path:
    """A finished probe with four heads."""
    write(folder / "config.json", {"task": "linear", "total": "4_steps", "probe": {"rates": [0.01, 0.001]}})
    write_lines(folder, [{"step": 4, "loss": 1.0, "accuracy/top1": 0.5}])
    heads = [
        {"rate": r, "weight_decay": d, "accuracy/top1": a}
        for r, d, a in ((0.01, 0.0, 0.5), (0.01, 0.1, 0.75), (0.001, 0.0, 0.25), (0.001, 0.1, 0.3))
    ]
    write(
        folder / "report.json",
        {
            "task": "linear",
            "metrics": {"accuracy/top1": 0.7, "accuracy/top5": 1.0},
            "baseline": {},
            "details": {"best": heads[1], "heads": heads, "clips": 40, "views": "1 x 1"},
        },
    )
    with open(folder / "per_class.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["class", "name", "clips", "top1", "top5", "most_confused_with"])
        rows.writerows([i, name, 20, f"{0.6 + 0.2 * i:.4f}", "1.0000", classes[0]] for i, name in enumerate(classes))
    picture(folder / "confusion.png")
    return folder


def probed_by_map(folder: pathlib.Path) -> pathlib.Path:
    """A finished probe of clips with several labels, with two heads."""
    write(folder / "config.json", {"task": "linear", "total": "4_steps", "probe": {"rates": [0.01], "loss": "sigmoid"}})
    write_lines(folder, [{"step": 4, "loss": 0.5, "accuracy/top1": 0.5}, {"step": 4, "eval/mAP": 0.375}])
    heads = [{"rate": 0.01, "weight_decay": d, "mAP": a} for d, a in ((0.0, 0.25), (0.1, 0.375))]
    details = {"best": heads[1], "heads": heads, "clips": 40, "views": "1 x 1"}
    write(folder / "report.json", {"task": "linear", "metrics": {"mAP": 0.425}, "baseline": {}, "details": details})
    (folder / "per_class.csv").write_text("class,name,clips,average_precision\n0,up,30,0.3500\n1,down,20,0.5000\n2,left,0,\n")
    return folder


def studied(folder: pathlib.Path, variant: str = "mae") -> pathlib.Path:
    """A study of two variants, one of which has no finished run."""
    write(folder / "config.json", {"task": "ablate", "study": {"name": "objectives"}})
    with open(folder / "table.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["variant", "measure", "runs", "mean", "deviation", "values"])
        for measure, mean, deviation in (("probe/accuracy", 0.625, 0.0125), ("reconstruction/model", 0.75, "")):
            rows.writerow(["untrained", measure, 1 if deviation == "" else 3, mean, deviation, "0.5 0.75"])
            rows.writerow([variant, measure, 0, "", "", ""])
    picture(folder / "table.png", 900)
    return folder


def figures(folder: pathlib.Path, *entries: tuple[str, str, str]) -> None:
    """Pictures (file, kind, caption) as task=visualize leaves them."""
    for file, *_ in entries:
        picture(folder / "figures" / file)
    write(folder / "figures" / "figures.json", [dict(zip(("file", "kind", "caption"), entry)) for entry in entries])


def write(path: pathlib.Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(folder: pathlib.Path, lines: list[dict]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
