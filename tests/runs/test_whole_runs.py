"""Whole runs through the command line, as a user starts them."""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.helpers.runs import (
    ROOT,
    Make,
    exit_codes,
    run_tool,
    start_ranks,
    stats,
    wait_for,
    write_config,
    write_data,
)
from videovit.config import dump_config, load_config
from videovit.engine import launch
from videovit.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def trained(data: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs, a multi-view test and a shuffle test in one process."""
    out = tmp_path_factory.mktemp("run")
    opts = ["DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", out, "SHUFFLE_EVAL.ENABLE", True, "TENSORBOARD.ENABLE", True]
    done = run_tool("run_net.py", "--cfg", config, "--opts", *opts)
    (out / "said.txt").write_text(done.stderr)
    return out


def scores(output_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(output_dir / "scores.pt", weights_only=True)


def assert_same_weights(first: Path, second: Path) -> None:
    """Bit for bit, after the second epoch."""
    name = "checkpoints/checkpoint_epoch_00002.pyth"
    one, two = (torch.load(folder / name, weights_only=True)["model_state"] for folder in (first, second))
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        assert torch.equal(two[key], tensor), key


def test_run_writes_all_its_files(trained: Path) -> None:
    names = {p.name for p in trained.rglob("*")}
    assert {
        "config.yaml",
        "stdout.log",
        "stats.jsonl",
        "curves.png",
        "predictions.csv",
        "shuffle_eval.json",
        "shuffle_eval.png",
        "checkpoint_epoch_00001.pyth",
        "checkpoint_epoch_00002.pyth",
        "tensorboard",
    } <= names
    assert "bad_samples.jsonl" not in names
    assert [r["iter"] for r in stats(trained, "train_iter")] == ["1/3", "2/3", "3/3"] * 2
    assert not any("loss_labels" in record for record in stats(trained, "train_iter"))  # the only term is the loss
    assert len(stats(trained, "val_epoch")) == 1
    (result,) = stats(trained, "test_final")
    assert (result["num_videos"], result["num_views"], result["num_skipped"]) == (7, 42, 0)
    report = json.loads((trained / "shuffle_eval.json").read_text())
    assert list(report["orders"]) == ["ordered", "reversed", "shuffled", "static"]
    assert report["orders"]["ordered"]["top1_acc"] == pytest.approx(result["top1_acc"])
    said = (trained / "said.txt").read_text()
    assert "clips/s" in said and "left 0:00:" in said and "Traceback" not in said


def test_two_processes_test_like_one(trained: Path, tmp_path: Path) -> None:
    """7 videos are not divisible by 2. The config is the one that the run wrote."""
    for procs in (1, 2):
        out = tmp_path / str(procs)
        opts = f"OUTPUT_DIR {out} TRAIN.ENABLE False SHUFFLE_EVAL.ENABLE False TEST.SAVE_RESULTS_PATH scores.pt "
        opts += f"NUM_CPU_PROCS {procs} TEST.CHECKPOINT_FILE_PATH {trained}/checkpoints/checkpoint_epoch_00002.pyth"
        run_tool("run_net.py", "--cfg", trained / "config.yaml", *opts.split())
    one, two = scores(tmp_path / "1"), scores(tmp_path / "2")
    assert torch.equal(one["labels"], two["labels"])
    torch.testing.assert_close(one["scores"], two["scores"], atol=1e-5, rtol=0)
    (first,), (second,) = stats(tmp_path / "1", "test_final"), stats(tmp_path / "2", "test_final")
    assert first == second
    assert first["checkpoint"].endswith("checkpoint_epoch_00002.pyth")
    tables = [list(csv.DictReader((tmp_path / name / "predictions.csv").open())) for name in "12"]
    assert [row["path"] for row in tables[0]] == one["paths"]
    for row, other in zip(*tables, strict=True):  # scores differ in the last bits, since batches do
        assert {k: v for k, v in row.items() if "score" not in k} == {
            k: v for k, v in other.items() if "score" not in k
        }
        assert float(other["score"]) == pytest.approx(float(row["score"]), abs=1e-5)
    assert 100 * sum(int(row["correct"]) for row in tables[0]) / 7 == pytest.approx(first["top1_acc"])
    log = (tmp_path / "1/stdout.log").read_text().rstrip().splitlines()
    wrong = [row["path"] for row in tables[0] if row["correct"] == "0"]
    assert 0 < len(wrong) < 10 and {line.split()[0] for line in log[-len(wrong) :]} == set(wrong)
    assert first["top1_acc"] == stats(trained, "test_final")[0]["top1_acc"]


def test_two_processes_train_like_one(data: Path, config: Path, tmp_path: Path) -> None:
    """Same batches, same mean gradient. Without dropout, which each rank draws for itself."""
    losses = []
    for procs in (1, 2):
        out = tmp_path / str(procs)
        opts = f"DATA.PATH_TO_DATA_DIR {data} OUTPUT_DIR {out} TEST.ENABLE False "
        opts += "MVIT.DROPPATH_RATE 0 MODEL.DROPOUT_RATE 0 SOLVER.MAX_EPOCH 1"
        assert exit_codes(start_ranks(load_config(config, opts.split()), procs)) == [0] * procs
        losses.append([(r["loss"], r["grad_norm"]) for r in stats(out, "train_iter")])
    for one, two in zip(*losses, strict=True):
        assert two == pytest.approx(one, rel=1e-4)


def test_killed_run_resumes_with_the_same_bits(trained: Path, data: Path, config: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/run_net.py"), "--cfg", str(config), "DATA.PATH_TO_DATA_DIR", str(data)]
    command += ["OUTPUT_DIR", str(tmp_path), "TEST.ENABLE", "False", "SOLVER.MAX_EPOCH", "2", "LOG_JSON", "True"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if '"iter": "2/3"' in line and '"epoch": "2/2"' in line:
                child.kill()
                break
    assert child.returncode == -signal.SIGKILL
    done = run_tool("run_net.py", *command[2:])
    assert "checkpoint_epoch_00001.pyth: 1 epoch and 0 steps done" in done.stderr
    whole, resumed = (
        torch.load(folder / "checkpoints/checkpoint_epoch_00002.pyth", weights_only=True)
        for folder in (trained, tmp_path)
    )
    for name, tensor in whole["model_state"].items():
        assert torch.equal(resumed["model_state"][name], tensor), name


def test_run_of_max_steps_resumes_within_the_epoch(trained: Path, data: Path, config: Path, tmp_path: Path) -> None:
    base = ["--cfg", config, "DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", tmp_path, "TEST.ENABLE", False]
    run_tool("run_net.py", *base, "TRAIN.MAX_STEPS", 2)
    assert (tmp_path / "checkpoints/checkpoint_epoch_00000_step_000002.pyth").is_file()
    run_tool("run_net.py", *base)
    whole, resumed = (
        torch.load(folder / "checkpoints/checkpoint_epoch_00002.pyth", weights_only=True)
        for folder in (trained, tmp_path)
    )
    for name, tensor in whole["model_state"].items():
        assert torch.equal(resumed["model_state"][name], tensor), name


@pytest.mark.parametrize(("procs", "whole_group", "times"), [(1, True, 1), (2, True, 2), (2, False, 1)])
def test_ctrl_c_exits_cleanly(
    procs: int, whole_group: bool, times: int, data: Path, config: Path, tmp_path: Path
) -> None:
    """Sent to all processes, as by a terminal, or to the first, as by a supervisor; the second one exits at once."""
    command = [sys.executable, str(ROOT / "tools/run_net.py"), "--cfg", str(config), "OUTPUT_DIR", str(tmp_path)]
    command += ["DATA.PATH_TO_DATA_DIR", str(data), "SOLVER.MAX_EPOCH", "500", "NUM_CPU_PROCS", str(procs)]
    command += ["LOG_JSON", "True"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as child:
        assert child.stderr is not None
        said = ""
        for line in child.stderr:
            said += line
            if times and ('"iter": "2/3"' in line or "once more ends the run at once" in line):
                times -= 1
                os.killpg(child.pid, signal.SIGINT) if whole_group else os.kill(child.pid, signal.SIGINT)
    assert child.returncode == 130
    assert "Traceback" not in said
    assert "the same command continues" in said
    wait_for(lambda: not living(child.pid))  # a helper of multiprocessing ends after the rest


def living(group: int) -> list[str]:
    """Processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            found += [path.parent.name] if int(its_group) == group and state not in "ZX" else []
    return found


@pytest.fixture
def damaged(data: Path, tmp_path: Path) -> Path:
    """The data with an empty, a text, a truncated and a missing file in its lists."""
    folder = tmp_path / "damaged"
    shutil.copytree(data, folder)
    whole = (folder / "train0.mp4").read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video\n" * 100)
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    for split in ("train", "test"):
        with open(folder / f"{split}.csv", "a") as file:
            file.write("empty.mp4 0\ntext.mp4 1\ncut.mp4 2\nmissing.mp4 0\n")
    return folder


def test_unreadable_videos_are_replaced_in_training_only(damaged: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    base = ["run_net.py", "--cfg", config, "DATA.PATH_TO_DATA_DIR", damaged, "OUTPUT_DIR", out]
    done = run_tool(*base, "DATA.MAX_BAD_FRACTION", 0.3, check=False)
    bad = {"empty.mp4", "text.mp4", "cut.mp4", "missing.mp4"}
    listed = [json.loads(line) for line in (out / "bad_samples.jsonl").read_text().splitlines()]
    assert {Path(entry["path"]).name for entry in listed} == bad
    assert all(entry["reason"] and entry["count"] >= 1 for entry in listed)
    assert (out / "checkpoints/checkpoint_epoch_00002.pyth").is_file()  # training went on
    assert done.returncode == 1  # the test stopped, and named them
    message = done.stderr[done.stderr.rindex("error:") :]
    assert all(name in message for name in bad) and "Traceback" not in done.stderr
    assert not stats(out, "test_final")

    run_tool(*base, "TRAIN.ENABLE", False, "TEST.SKIP_UNREADABLE", True, "TEST.SAVE_RESULTS_PATH", "scores.pt")
    (result,) = stats(out, "test_final")
    assert (result["num_videos"], result["num_skipped"]) == (7, 4)
    saved = torch.load(out / "scores.pt", weights_only=True)
    unread = [path for path, read in zip(saved["paths"], saved["read"].tolist(), strict=True) if not read]
    assert [Path(path).name for path in unread] == ["empty.mp4", "text.mp4", "cut.mp4", "missing.mp4"]
    hits = saved["scores"].argmax(dim=1)[saved["read"]] == saved["labels"][saved["read"]]
    assert 100 * hits.float().mean().item() == pytest.approx(result["top1_acc"], abs=1e-4)


def test_too_many_unreadable_videos_stop_training(damaged: Path, config: Path, tmp_path: Path) -> None:
    done = run_tool(
        "run_net.py", "--cfg", config, "DATA.PATH_TO_DATA_DIR", damaged, "OUTPUT_DIR", tmp_path / "out", check=False
    )
    assert done.returncode == 1
    assert "DATA.MAX_BAD_FRACTION 0.1" in done.stderr and "bad_samples.jsonl" in done.stderr


def test_all_mistakes_in_one_message(config: Path, data: Path, tmp_path: Path) -> None:
    typo = tmp_path / "typo.yaml"
    typo.write_text(config.read_text().replace("EMBED_DIM", "EMBED_DIMM"))
    opts = ["TRAIN.BATCHSIZE", 4, "SOLVER.OPTIMIZING_METHOD", "admaw", "OUTPUT_DIR", tmp_path / "out"]
    done = run_tool("run_net.py", "--cfg", typo, *opts, check=False)
    assert done.returncode == 1
    line = 1 + config.read_text().splitlines().index("  EMBED_DIM: 16")
    for part in (f"typo.yaml:{line}", "EMBED_DIMM", "TRAIN.BATCH_SIZE", "admaw", "adamw"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()

    done = run_tool("run_net.py", "--cfg", config.with_name("tinny.yaml"), check=False)
    assert done.returncode == 1 and "tiny.yaml" in done.stderr

    done = run_tool(
        "run_net.py", "--cfg", config, "OUTPUT_DIR", tmp_path / "out", "DATA.PATH_TO_DATA_DIR", tmp_path, check=False
    )
    assert done.returncode == 1 and "train.csv" in done.stderr and "Traceback" not in done.stderr


def test_error_of_one_of_two_processes_has_no_traceback(damaged: Path, config: Path, tmp_path: Path) -> None:
    done = run_tool(
        "run_net.py",
        "--cfg",
        config,
        *["DATA.PATH_TO_DATA_DIR", damaged, "OUTPUT_DIR", tmp_path / "out", "NUM_CPU_PROCS", 2, "TEST.ENABLE", False],
        check=False,
    )
    assert done.returncode == 1
    assert "error: rank" in done.stderr and "DATA.MAX_BAD_FRACTION 0.1" in done.stderr
    assert "Traceback" not in done.stderr
    log = (tmp_path / "out/stdout.log").read_text()
    assert re.search(r"ended by UserError: \d+ of \d+ training videos are unreadable", log)


def test_used_folder_keeps_its_config(trained: Path, data: Path, config: Path, tmp_path: Path) -> None:
    trained = shutil.copytree(trained, tmp_path / "used")
    before = (trained / "config.yaml").read_text()
    base = ["run_net.py", "--cfg", config, "DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", trained]
    run_tool(*base, "TRAIN.ENABLE", False, "TEST.NUM_ENSEMBLE_VIEWS", 1)
    assert (trained / "config.yaml").read_text() == before
    assert "NUM_ENSEMBLE_VIEWS: 1" in (trained / "config_test.yaml").read_text()
    for change, told in (
        (["TRAIN.AUTO_RESUME", False], "holds an earlier run"),
        (["SOLVER.OPTIMIZING_METHOD", "sgd"], "another optimizer"),
        (["MODEL.NUM_CLASSES", 4], "does not fit the model"),
    ):
        done = run_tool(*base, *change, check=False)
        assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr
        assert (trained / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("opts", "told"),
    [
        (["TRAIN.BATCH_SIZE", 64], "fewer than one step"),
        (["TRAIN.DATASET", "kinetix"], "kinetics"),
        (["MVIT.EMBED_DIM", 17, "MVIT.NUM_HEADS", 2], "heads"),
        (["OUTPUT_DIR", "/proc/videovit"], "cannot be written"),
    ],
)
def test_common_mistakes_have_no_traceback(
    opts: list[object], told: str, data: Path, config: Path, tmp_path: Path
) -> None:
    base = ["run_net.py", "--cfg", config, "DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", tmp_path]
    done = run_tool(*base, *opts, check=False)
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr


def test_without_weights_is_an_error(config: Path, data: Path, tmp_path: Path) -> None:
    opts = ["DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", tmp_path, "TRAIN.ENABLE", False]
    done = run_tool("run_net.py", "--cfg", config, *opts, check=False)
    assert done.returncode == 1 and "TEST.CHECKPOINT_FILE_PATH is empty" in done.stderr


def test_unwritable_scores_path_fails_before_the_test(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    opts = ["OUTPUT_DIR", tmp_path, "TRAIN.ENABLE", "False", "SHUFFLE_EVAL.ENABLE", "False"]
    opts += ["TEST.CHECKPOINT_FILE_PATH", trained, "TEST.SAVE_RESULTS_PATH", "scores"]
    done = run_tool("run_net.py", "--cfg", trained / "config.yaml", *opts, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"TEST.SAVE_RESULTS_PATH: {tmp_path / 'scores'} is a folder" in done.stderr
    assert "test  step" not in done.stderr


IMAGES = "TRAIN.DATASET imagenet TEST.DATASET imagenet DATA.PATH_TO_DATA_DIR {folder} DATA.PATH_PREFIX {folder} \
    DATA.NUM_FRAMES 1 MVIT.PATCH_KERNEL [1,7,7] MVIT.PATCH_STRIDE [1,4,4] MVIT.PATCH_PADDING [0,3,3]"


@pytest.mark.parametrize(
    ("opts", "told"),
    [
        ("DATA.CLASS_NAMES_FILE absent.txt", "absent.txt.*: no such file"),
        ("TEST.SAVE_RESULTS_PATH .", "TEST.SAVE_RESULTS_PATH: .* is a folder"),
        ("TEST.CHECKPOINT_FILE_PATH {folder}/absent.pyth", "absent.pyth: no such weight file"),
        (IMAGES, "TEST.NUM_ENSEMBLE_VIEWS.* 2[;,] expected 1: a still image"),
        (
            "TEST.ENABLE False SHUFFLE_EVAL.ENABLE True SHUFFLE_EVAL.CLASS_GROUPS_FILE absent.json",
            "absent.json.*: no such",
        ),
    ],
)
def test_unusable_test_inputs_fail_before_training(
    opts: str, told: str, data: Path, config: Path, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        for name in (f"{split}/{kind}/{number}.png" for kind in "abc" for number in range(2)):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 48), "red").save(tmp_path / name)
    (tmp_path / "test").symlink_to("val")
    words = ["DATA.PATH_TO_DATA_DIR", str(data), "DATA.PATH_PREFIX", str(data), "OUTPUT_DIR", str(tmp_path / "out")]
    cfg = load_config(config, [*words, "SOLVER.MAX_EPOCH", "1", *opts.format(folder=tmp_path).split()])
    with pytest.raises(UserError, match=told):
        launch.run(cfg)
    assert not (tmp_path / "out/checkpoints").exists()


def test_too_many_gpus_is_an_error(config: Path, data: Path, tmp_path: Path) -> None:
    wanted = torch.cuda.device_count() + 1
    opts = ["DATA.PATH_TO_DATA_DIR", data, "OUTPUT_DIR", tmp_path, "NUM_GPUS", wanted, "TRAIN.BATCH_SIZE", 4 * wanted]
    done = run_tool("run_net.py", "--cfg", config, *opts, check=False)
    assert done.returncode == 1 and f"NUM_GPUS {wanted}" in done.stderr and "Traceback" not in done.stderr


def test_launcher_of_one_process_gives_a_warning(make: Make, tmp_path: Path) -> None:
    """Some platforms always set its variables."""
    command = [sys.executable, str(ROOT / "tools/run_net.py"), "--cfg", str(tmp_path / "config.yaml")]
    cfg = make(tmp_path / "out", "NUM_CPU_PROCS 2 TRAIN.ENABLE False TEST.ENABLE False")
    (tmp_path / "config.yaml").write_text(dump_config(cfg))
    env = {**os.environ, "RANK": "0", "WORLD_SIZE": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "process 1 of 1" in done.stderr and "Unset RANK and WORLD_SIZE" in done.stderr


def test_torchrun(trained: Path, data: Path, config: Path, tmp_path: Path) -> None:
    """A launcher that sets the five variables reaches the same code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command += [str(ROOT / "tools/run_net.py"), "--cfg", str(trained / "config.yaml"), "OUTPUT_DIR", str(tmp_path)]
    command += ["TRAIN.ENABLE", "False", "SHUFFLE_EVAL.ENABLE", "False", "TEST.SAVE_RESULTS_PATH", "scores.pt"]
    command += ["TEST.CHECKPOINT_FILE_PATH", str(trained / "checkpoints/checkpoint_epoch_00002.pyth")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert stats(tmp_path, "test_final") == stats(trained, "test_final")


def test_prediction(trained: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    names = tmp_path / "names.txt"
    names.write_text("left\nmiddle\nright\n")
    args = ["--cfg", trained / "config.yaml", "--checkpoint", trained, "--json", out]
    videos = [data / "test0.mp4", data / "test1.mp4"]
    done = run_tool("predict.py", *args, *videos, "--opts", "DATA.CLASS_NAMES_FILE", names)
    predictions = json.loads(out.read_text())
    assert [p["path"] for p in predictions] == [str(v) for v in videos]
    for prediction in predictions:
        assert {entry["class"] for entry in prediction["top"]} == {"left", "middle", "right"}
        assert sum(entry["score"] for entry in prediction["top"]) == pytest.approx(1, abs=1e-4)
        assert [w["start_s"] for w in prediction["windows"]] == pytest.approx([0, 8 / 30], abs=0.01)
    assert "left" in done.stdout and "score %" in done.stdout

    done = run_tool("predict.py", *args, data / "test0.mp4", tmp_path / "absent.mp4", check=False)
    assert done.returncode == 1 and "absent.mp4" in done.stderr and "Traceback" not in done.stderr
    assert "test0.mp4" in done.stdout  # the others are still predicted

    done = run_tool("predict.py", *args[:-1], tmp_path, videos[0], check=False)
    assert done.returncode == 1 and f"--json {tmp_path}: is a folder" in done.stderr and "test0" not in done.stdout


@pytest.mark.parametrize("tool", ["run_net.py", "predict.py", "submit.py"])
def test_help_and_mistakes_do_not_import_torch(tool: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("NUM_GPU: 0\n")
    code = "import runpy\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    code += "finally: assert 'torch' not in sys.modules"
    words = ["--cfg", tmp_path / "a.yaml", *(["--checkpoint", "x", "video.mp4"] if tool == "predict.py" else [])]
    for told, arguments in (("KEY VALUE", ["--help"]), ("did you mean NUM_GPUS", words)):
        start = f"import sys; sys.argv = {[str(ROOT / 'tools' / tool), *map(str, arguments)]}\n{code}"
        done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, timeout=60)
        assert told in done.stdout + done.stderr and "Traceback" not in done.stderr, done.stderr


def test_two_shards_join_by_init_method(trained: Path, tmp_path: Path) -> None:
    """Two machines, simulated by two commands on one."""
    port = 20000 + os.getpid() % 20000
    command = [
        sys.executable,
        str(ROOT / "tools/run_net.py"),
        "--cfg",
        str(trained / "config.yaml"),
        "--num_shards",
        "2",
    ]
    command += ["--init_method", f"tcp://127.0.0.1:{port}", "OUTPUT_DIR", str(tmp_path), "TRAIN.ENABLE", "False"]
    command += ["SHUFFLE_EVAL.ENABLE", "False", "TEST.BATCH_SIZE", "2"]
    command += ["TEST.CHECKPOINT_FILE_PATH", str(trained / "checkpoints/checkpoint_epoch_00002.pyth")]
    children = []
    for shard in (0, 1):
        children.append(subprocess.Popen([*command[:4], "--shard_id", str(shard), *command[4:]]))
        time.sleep(0.2)
    assert [child.wait(timeout=120) for child in children] == [0, 0]
    (mine,), (theirs,) = stats(tmp_path, "test_final"), stats(trained, "test_final")
    assert mine == theirs
