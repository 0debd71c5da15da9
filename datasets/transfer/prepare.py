#!/usr/bin/env python3
"""Unpack, check and list the data sets to which models of images are transferred.

    python datasets/transfer/prepare.py cifar10 --archives downloads --output data/cifar10 --check

Official archives in --archives, each checked against its published MD5:

    cifar10    cifar-10-python.tar.gz
    cifar100   cifar-100-python.tar.gz
    flowers    102flowers.tgz, imagelabels.mat, setid.mat       Flowers-102; training on the official train and val
    cars       cars_train.tgz, cars_test.tgz, car_devkit.tgz, cars_test_annos_withlabels.mat       Stanford Cars

torchvision's classes read them (flowers and cars need SciPy). The output is train.csv, val.csv (the official test set;
one "path label" per line) and classes.json; images of CIFAR are written as PNG. Then train with configs/Transfer.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets import CIFAR10, CIFAR100, Flowers102, StanfordCars

from videovit.data.files.annotation_files import content_of
from videovit.data.records import AnnotationError
from videovit.messages import plural
from videovit.preparation import checks, command, lists

Images = list[tuple[str, int]]
"""(path, class) of every image of a split."""
UNPACKED = "official"  # folder of the unpacked archives in the output


@dataclass(frozen=True)
class Archive:
    """An official file.

    Attributes:
        name: of the file.
        md5: of its content.
        folder: where torchvision expects what is in it, below its root.
        holds: file or folder that it unpacks to, below `folder`.
    """

    name: str
    md5: str
    folder: str
    holds: str


@dataclass(frozen=True)
class Release:
    """A data set.

    Attributes:
        archives: its official files.
        read: (root of torchvision, output) -> splits, and class names.
    """

    archives: tuple[Archive, ...]
    read: Callable[[Path, Path], tuple[dict[str, Images], list[str]]]


def read_cifar(kind: type[CIFAR10]) -> Callable[[Path, Path], tuple[dict[str, Images], list[str]]]:
    """What writes the images of CIFAR as PNG; torchvision opens its pickles only if their MD5 is the official one."""

    def read(root: Path, output: Path) -> tuple[dict[str, Images], list[str]]:
        found: dict[str, Images] = {}
        names: list[str] = []
        for split in ("train", "val"):
            data = kind(root, train=split == "train")
            names = list(data.classes)
            folder = output / "images" / split
            folder.mkdir(parents=True, exist_ok=True)
            found[split] = []
            for number, (image, label) in enumerate(data):
                path = folder / f"{number:05d}.png"
                image.save(path)
                found[split].append((str(path), int(label)))
        return found, names

    return read


def read_flowers(root: Path, output: Path) -> tuple[dict[str, Images], list[str]]:
    """Flowers-102: the 1,020 images of train and the 1,020 of val are for training, as in DeiT."""
    by_split = {split: Flowers102(root, split=split) for split in ("train", "val", "test")}
    images = {name: _listed(data._image_files, data._labels) for name, data in by_split.items()}
    return {"train": images["train"] + images["val"], "val": images["test"]}, list(Flowers102.classes)


def read_cars(root: Path, output: Path) -> tuple[dict[str, Images], list[str]]:
    """Stanford Cars."""
    data = {split: StanfordCars(root, split=official) for split, official in (("train", "train"), ("val", "test"))}
    found = {split: _listed(*zip(*one._samples, strict=True)) for split, one in data.items()}
    return found, [str(name) for name in data["train"].classes]


def _listed(paths: Sequence[object], labels: Sequence[int]) -> Images:
    return [(str(path), int(label)) for path, label in zip(paths, labels, strict=True)]


FLOWERS, CARS = "flowers-102", "stanford_cars"
RELEASES = {
    "cifar10": Release(
        (Archive("cifar-10-python.tar.gz", CIFAR10.tgz_md5, "", CIFAR10.base_folder),), read_cifar(CIFAR10)
    ),
    "cifar100": Release(
        (Archive("cifar-100-python.tar.gz", CIFAR100.tgz_md5, "", CIFAR100.base_folder),), read_cifar(CIFAR100)
    ),
    "flowers": Release(
        (
            Archive("102flowers.tgz", "52808999861908f626f3c1f4e79d11fa", FLOWERS, "jpg"),
            Archive("imagelabels.mat", "e0620be6f572b9609742df49c70aed4d", FLOWERS, "imagelabels.mat"),
            Archive("setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c", FLOWERS, "setid.mat"),
        ),
        read_flowers,
    ),
    "cars": Release(
        (
            Archive("cars_train.tgz", "065e5b463ae28d29e77c1b4b166cfe61", CARS, "cars_train"),
            Archive("cars_test.tgz", "4ce7ebf6a94d07f1952d94dd34c4d501", CARS, "cars_test"),
            Archive("car_devkit.tgz", "c3b158d763b6e2245038c8ad08e45376", CARS, "devkit"),
            Archive(
                "cars_test_annos_withlabels.mat",
                "b0a2b23655a3edd16d84508592a98d10",
                CARS,
                "cars_test_annos_withlabels.mat",
            ),
        ),
        read_cars,
    ),
}


def unpack(archive: Archive, archives: Path, root: Path) -> None:
    """Check an archive and unpack it, or copy a file that is none; does nothing if that was done before.

    Raises:
        AnnotationError: it is missing, not the official one, or leads out of its folder.
    """
    target = root / archive.folder / archive.holds
    if target.exists():
        return
    source = archives / archive.name
    if not source.is_file():
        raise AnnotationError(f"{source} does not exist; {content_of(archives, '--archives')}")
    with open(source, "rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    if md5 != archive.md5:
        raise AnnotationError(
            "not the official file, or not all of it",
            where=source,
            found=md5,
            expected=f"MD5 {archive.md5}",
            hint="Download it again",
        )
    # Unpacked aside, then renamed: a part of an archive must not pass for all of it.
    partial = root / f".{archive.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if tarfile.is_tarfile(source):
            with tarfile.open(source) as tar:
                tar.extractall(partial, filter="data")
        else:
            shutil.copyfile(source, partial / archive.holds)
        (partial / archive.holds).rename(target)
    # An archive that ends too early raises EOFError or zlib.error.
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise AnnotationError(f"cannot be unpacked: {error}", where=source) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=RELEASES, help="the data set")
    parser.add_argument("--archives", type=Path, required=True, metavar="DIR", help="folder of the official files")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of images and lists")
    command.add_check_arguments(parser)
    args = parser.parse_args(argv)
    release = RELEASES[args.data]
    root = args.output / UNPACKED
    for archive in release.archives:
        unpack(archive, args.archives, root)
    try:
        by_split, names = release.read(root, args.output)
    except ImportError as error:
        raise AnnotationError(f"cannot be read: {error}", where=root, hint="pip install scipy") from error
    except (RuntimeError, ValueError, KeyError, IndexError, EOFError) as error:
        # torchvision says neither which of the files are missing or not the official ones, nor why.
        hint = f"Remove {root}, so that the archives are unpacked again"
        raise AnnotationError("the unpacked files are not the official ones", where=root, hint=hint) from error
    except OSError as error:
        raise AnnotationError(f"cannot be read or written: {error}", where=args.output) from error
    rows = {
        split: [(lists.listed_path(path, args.output), label) for path, label in images]
        for split, images in by_split.items()
    }
    lists.write_lists(args.output, rows, names)
    for split, images in rows.items():
        print(f"{split}: {plural(len(images), 'image')}")
    print(f"{plural(len(names), 'class', 'classes')} (MODEL.NUM_CLASSES)")
    if not args.check:
        return 0
    classes = {name: number for number, name in enumerate(names)}
    entries, bad = checks.entries_of_lists(args.output, classes=classes)
    return command.run_check(args, entries, folder=args.output, classes=classes, backend="image", found_before=bad)


if __name__ == "__main__":
    sys.exit(command.exit_code(main))
