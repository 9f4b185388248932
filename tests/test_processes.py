import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from gate import shut
from safetensors.torch import load_file
from together import gradients
from transformers import AutoModelForCausalLM

import retell
from retell.cli import main
from retell.errors import RequestError
from retell.methods import open_loss
from retell.processes import agreed, first_to_fail, gathered, rank, world
from retell.recipe import Train
from retell.train import check_training

HERE = Path(__file__).parent
TINY = Path(retell.__file__).parent / "tiny" / "policy"
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
}
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SHOWN = ("loss", "nll", "mean_weight", "ess", "grad_norm", "clipped")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many as the processes that it is compared with have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def together(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Two processes that train together."""
    command = [*TOGETHER, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False)


def training(folder: Path, *more: object, loss: str = "dft") -> list[str]:
    given = ("train", folder, "--loss", loss, "--data", "rewritten", "--batch-size", 8, "--learning-rate", 2e-4, *more)
    return [str(word) for word in given]


def rewritten(folder: Path, n: int) -> Path:
    """A run folder with rows of two rungs and of different lengths."""
    data = folder.with_suffix(".jsonl")
    rows = []
    for i in range(n):
        solution = f"Start with {i}.\n" * (1 + i % 5) + f"\\boxed{{{i}}}"
        rows.append({"problem": f"{i} + 0?" * (1 + i % 3), "solution": solution})
        if i % 2:
            rows[-1]["candidates"] = [f"It is {i}.\n" * (1 + i % 7) + f"\\boxed{{{i}}}"]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recorded = ("rewrite", "--engine", "recorded", "--data", str(data), "--out", str(folder))
    assert main([*recorded, "--model", str(TINY)]) == 0
    recipe = folder / "recipe.resolved.toml"
    text = recipe.read_text(encoding="utf-8")
    assert 'dtype = "bfloat16"' in text
    recipe.write_text(text.replace('dtype = "bfloat16"', 'dtype = "float32"'), encoding="utf-8")
    return folder


def metrics(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "checkpoints" / "dr-dft" / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def assert_same_training(folder: Path, alone: Path) -> None:
    mine, its = metrics(folder), metrics(alone)
    assert [line["step"] for line in mine] == list(range(1, len(its) + 1))
    for line, wanted in zip(mine, its, strict=True):
        assert line["tokens"] == wanted["tokens"]
        assert line["rungs"].keys() == wanted["rungs"].keys()
        for name in SHOWN:
            assert line[name] == pytest.approx(wanted[name], rel=1e-4 if line["step"] > 1 else 1e-5), name
        for rung, figures in wanted["rungs"].items():
            assert line["rungs"][rung] == pytest.approx(figures, rel=1e-4, abs=1e-6), rung
    weights, wanted_weights = (
        load_file(one / "checkpoints" / "dr-dft" / "model.safetensors") for one in (folder, alone)
    )
    assert weights.keys() >= wanted_weights.keys()  # tied weights may be there twice
    for name, wanted_weight in wanted_weights.items():
        torch.testing.assert_close(weights[name], wanted_weight, rtol=0, atol=1e-4, msg=name)


def messages(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("retell: ")]


# --- The update ---


def test_micro_batches_packing_and_processes_do_not_change_the_gradient(tmp_path: Path) -> None:
    finished = together(HERE / "together.py", "gradients", tmp_path)
    assert finished.returncode == 0, finished.stderr
    several = torch.load(tmp_path / "gradients.pt")
    whole = gradients(tmp_path, 100_000, packed=True)
    alone = {
        **{f"{name} micro-batches": value for name, value in gradients(tmp_path, 300, packed=True).items()},
        **{f"{name} padded": value for name, value in gradients(tmp_path, 100_000, packed=False).items()},
    }
    for name, wanted in whole.items():
        tolerance = 1e-10 if "float64" in name else 1e-5
        assert float(wanted.norm()) > 0.1
        for what, found in (("alone", alone), ("together", several)):
            ways = {way: value for way, value in found.items() if way.startswith(f"{name} ")}
            assert len(ways) == 2
            for way, value in ways.items():
                assert value.dtype == wanted.dtype
                assert float((value - wanted).norm() / wanted.norm()) <= tolerance, (what, way)


@pytest.mark.parametrize("program", [("-m", "retell"), (HERE / "together.py", "sharded")], ids=["whole", "sharded"])
def test_two_processes_train_as_one_does_and_only_the_lead_speaks(tmp_path: Path, program: tuple[object]) -> None:
    # 3 epochs of 8, 8 and 1 rows: the last update of each has fewer rows than there are processes.
    given = ("--epochs", 3, "--micro-batch-tokens", 200, "--json")
    alone = rewritten(tmp_path / "alone", 17)
    assert main(training(alone, *given)) == 0
    folder = rewritten(tmp_path / "together", 17)
    finished = together(*program, *training(folder, *given))
    assert finished.returncode == 0, finished.stderr
    assert len(metrics(folder)) == 9
    assert_same_training(folder, alone)
    summary = json.loads(finished.stdout)
    assert (summary["updates"], summary["rows"]) == (9, 17)
    assert finished.stderr.count("only 9 update(s)") == 1
    assert AutoModelForCausalLM.from_pretrained(folder / "checkpoints" / "dr-dft").dtype == torch.float32
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in alone.iterdir())
    assert not list(folder.glob("training/*"))

    again = together(*program, *training(folder, *given))
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == summary
    assert again.stderr.count("nothing to do") == 1


def test_no_thread_of_the_processes_talk_is_left_to_meet_the_end_of_the_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "parted.py"
    script.write_text(
        "import os, sys\n"
        "from retell.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "threads = [open(f'/proc/self/task/{each}/comm').read() for each in os.listdir('/proc/self/task')]\n"
        "sys.exit(status or any('gloo' in thread for thread in threads))\n"
    )
    folder = rewritten(tmp_path / "together", 8)
    for said in ("only 1 update(s)", "nothing to do"):
        finished = together(script, *training(folder))
        assert finished.returncode == 0 and said in finished.stderr, finished.stderr


def test_one_that_lacks_torch_can_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert first_to_fail()


def test_killed_processes_go_on_from_their_last_checkpoint(tmp_path: Path) -> None:
    given = ("--epochs", 4, "--save-every", 3)
    alone = rewritten(tmp_path / "alone", 40)
    assert main(training(alone, *given)) == 0
    folder = rewritten(tmp_path / "together", 40)
    work = folder / "training" / "dr-dft"
    shut(tmp_path / "gate", 8)
    command = [*TOGETHER, str(HERE / "together.py"), "gated", str(tmp_path / "gate"), *training(folder, *given)]
    with subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True) as launched:
        deadline = time.monotonic() + 120
        while not (work / "checkpoint-6" / "trainer_state.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert launched.poll() is None
        kill_all(launched.pid)
    assert not (folder / "checkpoints").exists()
    left = [path for path in work.glob("checkpoint-*") if (path / "trainer_state.json").exists()]
    assert left
    torn = work / "checkpoint-19"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")

    fewer = shutil.copytree(folder, tmp_path / "fewer")
    assert main(training(fewer, *given)) == 0
    assert_same_training(fewer, alone)
    finished = together("-m", "retell", *training(folder, *given))
    assert finished.returncode == 0, finished.stderr
    assert_same_training(folder, alone)


def kill_all(launcher: int) -> None:
    """The launcher first, lest it reports, and then the processes that it started, which are its only children."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text(encoding="utf-8").split()
    assert len(children) >= 2
    for process in (launcher, *map(int, children)):
        os.kill(process, signal.SIGKILL)


# --- What they tell each other ---


def test_they_agree_on_what_the_lead_finds(tmp_path: Path) -> None:
    finished = together(HERE / "together.py", "talk", tmp_path)
    assert finished.returncode == 0, finished.stderr


def test_one_process_agrees_with_itself() -> None:
    assert (rank(), world()) == (0, 1)
    assert agreed(lambda: 3) == 3
    assert gathered([1, 2]) == [1, 2]
    assert first_to_fail()


# --- Failures ---


def test_what_is_wrong_for_all_is_said_once(tmp_path: Path) -> None:
    folder = rewritten(tmp_path / "run", 8)
    before = (folder / "manifest.json").read_bytes()
    finished = together("-m", "retell", *training(folder, loss="dfd"))
    assert finished.returncode != 0
    assert finished.stdout == ""
    assert len(messages(finished.stderr)) == 1
    assert "dfd" in messages(finished.stderr)[0]
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(("how", "says"), [("told", "is on fire"), ("unforeseen", "ValueError: nobody foresaw it")])
def test_what_is_wrong_for_one_ends_all_and_is_said_once(tmp_path: Path, which: int, how: str, says: str) -> None:
    folder = rewritten(tmp_path / "run", 2)
    finished = together(HERE / "together.py", "fail", folder, which, how)
    assert finished.returncode != 0
    assert len(messages(finished.stderr)) == 1, finished.stderr
    assert says in messages(finished.stderr)[0]


@pytest.mark.parametrize("which", [0, 1])
def test_a_process_that_is_killed_ends_the_others(tmp_path: Path, which: int) -> None:
    folder = rewritten(tmp_path / "run", 2)
    finished = together(HERE / "together.py", "fail", folder, which, "killed")
    assert finished.returncode != 0
    assert len(messages(finished.stderr)) == 1, finished.stderr
    assert f"rank      : {which}" in finished.stderr


# --- The files for `accelerate launch` ---


@pytest.mark.parametrize("path", sorted((HERE.parent / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_knows_every_key_of_its_files(path: Path) -> None:
    options = vars(launch_command_parser().parse_args(["-m", "retell"]))
    config = load_config_from_file(str(path))  # refuses an unknown key
    sections = {**config.fsdp_config, **config.deepspeed_config}
    assert sections.keys() <= options.keys()
    assert config.mixed_precision == "bf16"
    assert config.fsdp_config.get("fsdp_version", 2) == 2
    assert config.deepspeed_config.get("zero_stage", 2) == 2


@pytest.mark.parametrize("how", ["stage", "file"])
def test_zero_3_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "stage":
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    else:
        (tmp_path / "zero.json").write_text('{"zero_optimization": {"stage": 3}}', encoding="utf-8")
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "zero.json"))
    with pytest.raises(RequestError, match=r"ZeRO-3 is not supported.*fsdp2\.yaml"):
        check_training(Train(), open_loss("dft"), online=False)


def test_the_recipe_says_the_precision_whatever_the_launcher_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--epochs", 1, "--json")
    alone, launched = (rewritten(tmp_path / name, 8) for name in ("alone", "launched"))
    assert main(training(alone, *given)) == 0
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert main(training(launched, *given)) == 0
    assert metrics(launched) == metrics(alone)


# Without a GPU its processes meet by gloo.
TWO = """compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
num_machines: 1
num_processes: 2
main_process_port: 0
"""


def launching(folder: Path, tmp_path: Path, *more: object, loss: str = "dft") -> list[str]:
    """`retell train` in one process, which starts two."""
    configuration = tmp_path / "two.yaml"
    configuration.write_text(TWO, encoding="utf-8")
    return [sys.executable, "-m", "retell", *training(folder, "--launch", configuration, *more, loss=loss)]


def launched(folder: Path, tmp_path: Path, *more: object, loss: str = "dft") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        launching(folder, tmp_path, *more, loss=loss),
        env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def at_work_in(folder: Path) -> list[int]:
    """The processes that have the folder in their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in (process / "cmdline").read_bytes().decode() and process.name != str(os.getpid()):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_a_training_may_start_its_own_processes(tmp_path: Path) -> None:
    one, two = rewritten(tmp_path / "one", 24), rewritten(tmp_path / "two", 24)
    assert main(training(one)) == 0
    done = launched(two, tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "dr-dft"
    for mine, theirs in zip(metrics(one), metrics(two), strict=True):
        for name in SHOWN:
            assert theirs[name] == pytest.approx(mine[name], rel=1e-4, abs=1e-7)
    again = launched(two, tmp_path)
    assert again.returncode == 0 and "nothing to do" in again.stderr
    # How many processes there are is no setting of the result.
    assert main(training(two, "--launch", tmp_path / "none.yaml")) == 2


def test_processes_that_fail_say_why_and_fail_the_command(tmp_path: Path) -> None:
    folder = rewritten(tmp_path / "run", 12)
    done = launched(folder, tmp_path, "--weight-decay", "1e30", "--warmup-ratio", "0")
    assert done.returncode == 1
    assert "failed (exit status 1): see above" in done.stderr
    assert "lower the learning rate" in done.stderr
    assert "Traceback" not in done.stderr.split("failed (exit status 1)")[-1]


def test_every_process_that_the_configuration_names_trains(tmp_path: Path) -> None:
    folder = rewritten(tmp_path / "run", 16)
    code = "import os, pathlib\ndef own(logp_BT, mask_BT):\n    pathlib.Path('rank-' + os.environ['RANK']).touch()\n"
    (tmp_path / "told.py").write_text(f"{code}    return -logp_BT\n", encoding="utf-8")
    done = launched(folder, tmp_path, loss="told:own")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("rank-*")) == ["rank-0", "rank-1"]


def test_a_training_that_is_stopped_stops_what_it_has_started(tmp_path: Path) -> None:
    folder = rewritten(tmp_path / "run", 64)
    command = launching(folder, tmp_path, "--epochs", 400)
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        for _ in range(600):
            if list((folder / "training").glob("*/metrics.jsonl")) and process.poll() is None:
                break
            time.sleep(0.1)
        time.sleep(2)
        assert process.poll() is None and len(at_work_in(folder)) >= 4
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted; what was stored is kept" in errors
    assert at_work_in(folder) == []
    assert main(training(folder, "--epochs", 1)) == 0  # nobody holds the folder


def test_a_launch_that_cannot_be_is_refused(tmp_path: Path) -> None:
    dft = open_loss("dft")
    with pytest.raises(RequestError, match=r"train\.launch = .*there is no such file"):
        check_training(Train(launch=str(tmp_path / "none.yaml")), dft, online=False)
    (tmp_path / "some.yaml").write_text(TWO, encoding="utf-8")
    check_training(Train(launch=str(tmp_path / "some.yaml")), dft, online=False)
    with pytest.raises(RequestError, match=r"train\.launch starts several processes, and an online run trains in one"):
        check_training(Train(launch=str(tmp_path / "some.yaml"), rounds=2), dft, online=True)
