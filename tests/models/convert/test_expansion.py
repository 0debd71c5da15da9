"""Weight files that are small on disk and fill the memory when they are read."""

from __future__ import annotations

import argparse
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter, save

from videovit.engine.checkpoints.resume import load_model
from videovit.models import CheckpointError, load_pretrained
from videovit.models.convert.read import read_file

HUGE = 3 << 28  # numbers: 3 GB


def deflate(path: Path) -> Path:
    """Compress the entries of a file of torch.save."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def nested(levels: int = 40) -> Any:
    """Lists of one list, ten times in each."""
    value: Any = "x"
    for _ in range(levels):
        value = [value] * 10
    return value


def test_deflated_zeros_raise(tmp_path: Path) -> None:
    torch.save({"model_state": {"weight": torch.zeros(1 << 26)}}, tmp_path / "a.pyth")
    deflate(tmp_path / "a.pyth")
    assert (tmp_path / "a.pyth").stat().st_size < 1 << 20
    before = peak_mb()
    with pytest.raises(CheckpointError, match=r"a\.pyth: is compressed, .* unpacks to 268,4\d\d,\d\d\d bytes"):
        load_pretrained(nn.Linear(4, 4), tmp_path / "a.pyth")
    assert peak_mb() - before < 50


def test_deflated_weights_are_read(tmp_path: Path) -> None:
    """Some collections of weights are compressed as a whole."""
    source, model = nn.Linear(300, 300), nn.Linear(300, 300)
    torch.save({"model_state": source.state_dict()}, tmp_path / "a.pyth")
    load_pretrained(model, deflate(tmp_path / "a.pyth"))
    assert torch.equal(model.weight, source.weight)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["top", "inside"])
def test_tensor_that_repeats_its_numbers_raises(tmp_path: Path, place: str, legacy: bool) -> None:
    weight = torch.zeros(1).expand(HUGE)
    content = {"weight": weight} if place == "top" else {"optimizer_state": [({"step": weight},)], "model_state": {}}
    torch.save(content, tmp_path / "a.pyth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"a\.pyth: has tensors that repeat their numbers"):
        read_file(tmp_path / "a.pyth")


def test_tied_weights_are_read(tmp_path: Path) -> None:
    weight = torch.zeros(1 << 25)
    torch.save({"model_state": {"a": weight, "b": weight}, "ema_state": {"a": weight}}, tmp_path / "a.pyth")
    assert read_file(tmp_path / "a.pyth")["model_state"]["b"].shape == weight.shape


# Not as parameters of the test: pytest would write them out.
VALUES: dict[str, Callable[[], Any]] = {
    "list": nested,
    "record": lambda: argparse.Namespace(a=nested()),
    "dict": lambda: {"a": nested()},
    "integer": lambda: 10**400,
    "tensor": lambda: torch.zeros(2),
    "text": lambda: "x" * 10**7,
}


@pytest.mark.parametrize("kind", list(VALUES))
@pytest.mark.parametrize("load", [load_pretrained, load_model])
def test_pool_norm_eps_of_any_kind_raises_a_short_message(tmp_path: Path, kind: str, load: Any) -> None:
    torch.save({"model_state": nn.Linear(4, 4).state_dict(), "pool_norm_eps": VALUES[kind]()}, tmp_path / "a.pyth")
    with pytest.raises(CheckpointError, match=r"a\.pyth: pool_norm_eps: found .*expected a number") as caught:
        load(nn.Linear(4, 4), tmp_path / "a.pyth")
    assert len(str(caught.value)) < 3000


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], rest: dict[str, Any]) -> Path:
    save(dict(tensors), storage_writer=FileSystemWriter(folder), no_dist=True)
    torch.save(rest, folder / "rest.pyth")
    return folder


@pytest.mark.filterwarnings("ignore:torch.distributed")
def test_sharded_checkpoint_of_any_size_raises(tmp_path: Path) -> None:
    """The shapes in it are those of the author, and so is what a tensor needs before its first number is read."""
    weight = torch.rand(10, 10)
    meta = {"model_state": {"a": weight.to("meta")}}
    folder = write_shards(tmp_path / "good.dcp", {"model_state/a": weight}, meta)
    assert torch.equal(read_file(folder)["model_state"]["a"], weight)
    meta["model_state"]["b"] = torch.empty(HUGE, device="meta")
    folder = write_shards(tmp_path / "bad.dcp", {"model_state/a": weight}, meta)
    with pytest.raises(CheckpointError, match=r"bad\.dcp: .*has tensors that repeat their numbers"):
        read_file(folder)
