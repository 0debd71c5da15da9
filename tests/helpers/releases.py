"""Small rendered data sets in the layout of their releases, and calls of the scripts in datasets/."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.runs import ROOT
from tests.helpers.videos import write_video
from videovit.preparation.command import exit_code

COLORS = [(220, 40, 40), (40, 220, 40), (40, 40, 220)]
KINETICS = ["abseiling", "playing tennis", "tai chi"]
CHARADES = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
SYNSETS = {"n01440764": "tench, Tinca tinca", "n02012849": "crane", "n03126707": "crane"}


def script(name: str) -> ModuleType:
    """Import datasets/<name>/prepare.py."""
    place = ROOT / "datasets" / name / "prepare.py"
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", place)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"prepare_{name}"] = module
    spec.loader.exec_module(module)
    return module


def run(name: str, *args: object) -> int:
    module = script(name)
    code: int = exit_code(lambda: module.main([str(arg) for arg in args]), getattr(module, "OPTIONS", {}))
    return code


def picture(label: int, seed: int, *, size: tuple[int, int] = (48, 48)) -> np.ndarray[Any, Any]:
    """Noise, tinted with the color of the class."""
    noise = np.random.default_rng([label, seed]).integers(0, 60, (*size, 3))
    return (noise * 0.6 + np.array(COLORS[label]) * 0.7).clip(0, 255).astype(np.uint8)


def film(path: Path, label: int, seed: int = 0, **arguments: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = arguments.pop("draw", lambda i: picture(label, 1000 * seed + i))
    return write_video(path, num_frames=12, size=(48, 48), draw=draw, **arguments)


def findings(report: Path) -> list[dict[str, str]]:
    with open(report, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def kinds(report: Path) -> Counter[str]:
    return Counter(row["kind"] for row in findings(report))


def video_id(split: str, i: int) -> str:
    return f"{split:_<5}-{i:05d}"


def write_kinetics(folder: Path) -> Path:
    """Official CSV files and clips: in class folders with spaces, with underscores, and in no folder."""
    for split, number, official in (("train", 12, "train"), ("val", 6, "validate")):
        rows = ["label,youtube_id,time_start,time_end,split"]
        for i in range(number):
            label = i % 3
            rows.append(f"{KINETICS[label]},{video_id(split, i)},{i},{i + 10},{official}")
            stem = video_id(split, i) + (f"_{i:06d}_{i + 10:06d}" if i % 2 else "")
            below = [KINETICS[label], KINETICS[label].replace(" ", "_"), "."][i // 3 % 3]
            film(folder / "clips" / split / below / f"{stem}.mp4", label, i + 100 * (split == "val"))
        (folder / f"{split}.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    return folder


def official(folder: Path) -> list[object]:
    return ["--annotations", folder / "train.csv", folder / "val.csv", "--videos", folder / "clips"]


def write_imagenet(folder: Path) -> Path:
    """train/ by synset, a flat val/, and the development kit, as released."""
    scipy_io = pytest.importorskip("scipy.io")
    for label, synset in enumerate(SYNSETS):
        (folder / "train" / synset).mkdir(parents=True)
        for i in range(4):
            image = Image.fromarray(picture(label, i, size=(40, 60)))
            image.save(folder / "train" / synset / f"{synset}_{i}.JPEG")
    (folder / "val").mkdir()
    for i in range(6):
        image = Image.fromarray(picture(i % 3, 100 + i, size=(40, 60)))
        image.save(folder / "val" / f"ILSVRC2012_val_{i + 1:08d}.JPEG")
    ids = dict(zip(SYNSETS, (3, 1, 2), strict=True))  # not in the order of the synsets
    table = np.array(
        [(ids[s], s, SYNSETS[s], 0) for s in SYNSETS] + [(4, "n00001740", "entity", 3)],
        dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)],
    )
    (folder / "devkit/data").mkdir(parents=True)
    scipy_io.savemat(folder / "devkit/data/meta.mat", {"synsets": table})
    truth = [ids[synset] for synset in [*SYNSETS, *SYNSETS]]
    (folder / "devkit/data/ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, truth)) + "\n")
    return folder


def write_ssv2(folder: Path) -> Path:
    templates = ["Holding [something]", "Putting [something] on [something]", "Turning [something] upside down"]
    names = {name.replace("[", "").replace("]", ""): str(i) for i, name in enumerate(templates)}
    (folder / "something-something-v2-labels.json").write_text(json.dumps(names))
    for split, first, number in (("train", 100, 12), ("validation", 200, 6)):
        entries = [{"id": str(first + i), "label": "x", "template": templates[i % 3]} for i in range(number)]
        (folder / f"something-something-v2-{split}.json").write_text(json.dumps(entries))
        for i in range(number):
            path = folder / "20bn-something-something-v2" / f"{first + i}.webm"
            film(
                path, i % 3, first + i, codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}, bframes=0
            )
    return folder


def write_charades(folder: Path) -> Path:
    """Videos of one or two actions: one color in the upper half, optionally another in the lower half."""
    (folder / "Charades_v1_classes.txt").write_text("".join(f"c{k:03d} Showing color {k}\n" for k in range(3)))
    for split, number in (("train", 12), ("test", 6)):
        rows = [CHARADES]
        for i in range(number):
            shown = (i % 3,) if i % 2 else (i % 3, (i + 1) % 3)
            seed = 50 * i + 1000 * len(rows) * (split == "test")
            name = f"{split[:2].upper()}{i:03d}"

            def draw(frame: int, shown: tuple[int, ...] = shown, seed: int = seed) -> Any:
                return np.concatenate([picture(shown[0], seed + frame)[:24], picture(shown[-1], seed + frame)[24:]])

            film(folder / "Charades_v1_480" / f"{name}.mp4", 0, draw=draw)
            actions = ";".join(f"c{k:03d} 0.00 0.40" for k in shown)
            rows.append(f'{name},S,Room,6,7,Yes,"a, b",,,{actions},0.40')
        (folder / f"Charades_v1_{split}.csv").write_text("\n".join(rows) + "\n")
    return folder
