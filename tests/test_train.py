import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from gate import shut, wait_at
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainerCallback

import retell
from retell import train as train_module
from retell.errors import PolicyError, RecipeError, RequestError, TrainingError
from retell.logprobs import teach
from retell.methods import open_loss
from retell.prompts import Prompter
from retell.recipe import Policy, Train
from retell.records import TrainRow
from retell.runfolder import RunFolder
from retell.schedule import Schedule
from retell.tokens import ChatTokenizer
from retell.train import Source, _arguments, check_training, source_of, train
from retell.trainer import Updates, WeightedTrainer
from retell.trainrows import TrainRows

TINY = Path(retell.__file__).parent / "tiny" / "policy"
TOKENIZER = ChatTokenizer(TINY)
SETTINGS = Train(batch_size=16, dtype="float32", gradient_checkpointing=False, learning_rate=1e-3)
LOSSES = [
    "sft",
    "dft",
    "is,others=dft",
    "iw_sft",
    "iw_sft,level=token",
    "psft",
    "asft",
    "eaft",
    "power,alpha=2",
    "chord",
]


def rows(n: int) -> list[TrainRow]:
    """Rows of every rung whose responses differ much in length."""
    prompter = Prompter(Policy(), TOKENIZER)
    texts = [(f"Start with {i}." * (1 + i % 4), f"(a) {i} + 1 = {i + 1}\n" * (1 + i % 7)) for i in range(n)]
    made: list[TrainRow] = []
    for i, text in enumerate(texts):
        prompt, response = TOKENIZER.training_ids(prompter.conversation(*text))
        behaviour = tuple(-0.1 * (j % 9) for j in range(len(response))) if i % 3 < 2 else None
        made.append(TrainRow(str(i), ("self", "guided", "expert")[i % 3], prompt, response, behaviour))
    return made


def model(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(TINY, dtype=dtype)
    return loaded


def tuned(folder: Path, loss: str, given: list[TrainRow] | Source, **changes: Any) -> dict[str, Any]:
    settings = SETTINGS.model_copy(update=changes)
    source = given if isinstance(given, Source) else source_of(TrainRows(given))
    with RunFolder(folder) as place:
        return train("x", open_loss(loss), source, model(), TOKENIZER, settings, place, "identity", {"data": "rows"})


def metrics(folder: Path) -> list[dict[str, Any]]:
    return metrics_of(folder / "checkpoints" / "x" / "metrics.jsonl")


def metrics_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Gradients(TrainerCallback):
    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        grads = [p.grad.double().flatten() for p in given["model"].parameters() if p.grad is not None]
        self.seen.append(torch.cat(grads))


def one_update(
    folder: Path, loss: str, dtype: torch.dtype, tokens: int, given: list[TrainRow], *, packed: bool = True
) -> tuple[WeightedTrainer, torch.Tensor]:
    """The trainer after an update of all rows, and the update's gradient."""
    kept = Gradients()
    policy, base = model(dtype), model(dtype)
    taught = teach(policy)
    teach(base)
    if not packed:
        taught = type(taught)(taught.head, packs=False)
        policy.set_attn_implementation("sdpa")
        base.set_attn_implementation("sdpa")
    assert taught.packs == packed
    schedule = Schedule([row.id for row in given], len(given), 1, 0)
    by_id = {row.id: row for row in given}
    method = open_loss(loss)
    arguments = _arguments(SETTINGS, folder, "cpu", schedule.updates)
    arguments.save_strategy = "no"
    trainer = WeightedTrainer(
        model=policy,
        args=arguments,
        callbacks=[kept],
        updates=Updates(schedule, lambda *_: by_id, 0, method.updates, 1),
        method=method,
        taught=taught,
        base=base.eval(),
        micro_batch_tokens=tokens,
        metrics=folder / "metrics.jsonl",
    )
    trainer.train()
    return trainer, kept.seen[0]


def first_gradient(
    folder: Path, loss: str, dtype: torch.dtype, tokens: int, given: list[TrainRow], *, packed: bool = True
) -> torch.Tensor:
    return one_update(folder, loss, dtype, tokens, given, packed=packed)[1]


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize(
    ("loss", "dtype", "tolerance"),
    [
        *((loss, torch.float64, 1e-10) for loss in LOSSES),
        *((loss, torch.float32, 1e-5) for loss in ("sft", "dft", "psft", "iw_sft")),
    ],
)
def test_micro_batches_and_packing_do_not_change_the_gradient(
    tmp_path: Path, loss: str, dtype: torch.dtype, tolerance: float
) -> None:
    whole = first_gradient(tmp_path, loss, dtype, 100_000, rows(16))
    assert apart(whole, first_gradient(tmp_path, loss, dtype, 400, rows(16))) <= tolerance
    assert apart(whole, first_gradient(tmp_path, loss, dtype, 1, rows(16))) <= tolerance
    assert apart(whole, first_gradient(tmp_path, loss, dtype, 400, rows(16), packed=False)) <= tolerance


@pytest.mark.parametrize("loss", ["sft", "dft"])
def test_the_gradient_is_that_of_the_mean_over_all_response_tokens(tmp_path: Path, loss: str) -> None:
    policy = model(torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    count = 0
    for row in rows(16):
        ids = torch.tensor([[*row.prompt, *row.response]])
        logp = policy(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[len(row.prompt) - 1 :, 0]
        weight = logp.detach().exp() if loss == "dft" else 1.0
        total = total - (weight * logp).sum()
        count += len(row.response)
    (total / count).backward()
    wanted = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    wanted = wanted * min(1.0, SETTINGS.max_grad_norm / float(wanted.norm()))
    # The clip divides by the norm plus 1e-6.
    assert apart(wanted, first_gradient(tmp_path, loss, torch.float64, 400, rows(16))) <= 1e-5


@pytest.mark.parametrize(("loss", "same"), [("psft", "sft"), ("power,alpha=1", "dft")])
def test_losses_that_agree_before_the_first_update_have_one_gradient(tmp_path: Path, loss: str, same: str) -> None:
    one = first_gradient(tmp_path, loss, torch.float64, 400, rows(16))
    assert apart(one, first_gradient(tmp_path, same, torch.float64, 400, rows(16))) <= 1e-10


def test_a_ratio_to_the_policy_itself_is_a_weight_of_one(tmp_path: Path) -> None:
    given = rows(16)
    policy = model(torch.float64)
    own = []
    for row in given:
        ids = torch.tensor([[*row.prompt, *row.response]])
        with torch.inference_mode():
            logp = policy(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[len(row.prompt) - 1 :, 0]
        own.append(TrainRow(row.id, row.rung, row.prompt, row.response, tuple(logp.tolist())))
    first_gradient(tmp_path, "is", torch.float32, 400, own)
    line = json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert line["mean_weight"] == pytest.approx(1, abs=1e-5)
    assert line["ess"] == pytest.approx(1, abs=1e-5)
    assert line["clipped"] == 0


def test_training_writes_a_model_folder_with_metrics_of_every_update(tmp_path: Path) -> None:
    summary = tuned(tmp_path, "dft", rows(40))
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert sum(line["tokens"] for line in lines) == sum(len(row.response) for row in rows(40)) == summary["tokens"]
    for line in lines:
        assert 0 < line["mean_weight"] < 1
        assert 0 < line["ess"] < 1
        assert 0 < line["loss"] < line["nll"]
        assert line["grad_norm"] > 0
        assert line["rungs"].keys() == {"self", "guided", "expert"}
        assert sum(figures["tokens"] for figures in line["rungs"].values()) == line["tokens"]
    assert max(line["learning_rate"] for line in lines) <= SETTINGS.learning_rate
    place = tmp_path / "checkpoints" / "x"
    after = AutoModelForCausalLM.from_pretrained(place)
    assert not torch.equal(after.lm_head.weight, model().lm_head.weight)
    assert ChatTokenizer(place).prompt_ids([{"role": "user", "content": "x"}])
    assert "`dft`" in (place / "README.md").read_text(encoding="utf-8")
    assert not (tmp_path / "training" / "x").exists()


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_and_is_the_same_again(tmp_path: Path, loss: str) -> None:
    first = tuned(tmp_path / "a", loss, rows(32), epochs=6)
    again = tuned(tmp_path / "b", loss, rows(32), epochs=6)
    assert first["last"]["nll"] < 0.8 * first["first"]["nll"]
    assert first["last"] == again["last"]


def test_the_order_of_the_rows_given_does_not_matter(tmp_path: Path) -> None:
    first = tuned(tmp_path / "a", "sft", rows(40))
    again = tuned(tmp_path / "b", "sft", rows(40)[::-1])
    assert first["last"] == again["last"]


def test_half_precision_training_stays_close_to_full(tmp_path: Path) -> None:
    full = tuned(tmp_path / "a", "dft", rows(40))
    half = tuned(tmp_path / "b", "dft", rows(40), dtype="bfloat16", gradient_checkpointing=True)
    assert half["first"]["nll"] == pytest.approx(full["first"]["nll"], rel=0.02)
    assert half["last"]["nll"] == pytest.approx(full["last"]["nll"], rel=0.05)


def test_a_single_update_learns_something_and_is_remarked_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tuned(tmp_path, "sft", rows(5))
    assert summary["updates"] == 1
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoints" / "x")
    assert not torch.equal(after.lm_head.weight, model().lm_head.weight)
    assert "only 1 update" in capsys.readouterr().err


def test_adapters_are_trained_merged_and_kept(tmp_path: Path) -> None:
    tuned(tmp_path, "dft", rows(64), lora_rank=4, learning_rate=1e-2)
    place = tmp_path / "checkpoints" / "x"
    after = AutoModelForCausalLM.from_pretrained(place)
    before = model()
    assert torch.equal(after.lm_head.weight, before.lm_head.weight)
    assert not torch.equal(after.model.layers[0].mlp.up_proj.weight, before.model.layers[0].mlp.up_proj.weight)
    from peft import PeftModel

    adapted: Any = PeftModel.from_pretrained(before, str(place / "adapter")).merge_and_unload()
    torch.testing.assert_close(adapted.state_dict(), after.state_dict())


def test_the_best_checkpoint_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    changes = {"holdout": 0.2, "save_every": 2, "epochs": 8, "learning_rate": 3e-2}
    best = tuned(tmp_path / "a", "sft", rows(60), keep="best", **changes)
    last = tuned(tmp_path / "b", "sft", rows(60), keep="last", **changes)
    assert best["held_out_nll"] == last["held_out_nll"]
    lowest = min(best["held_out_nll"], key=best["held_out_nll"].get)
    assert best["kept"] == int(lowest)
    assert int(lowest) != best["updates"], "the rate is so high that the last is not the best"
    weights = [AutoModelForCausalLM.from_pretrained(tmp_path / run / "checkpoints" / "x") for run in "ab"]
    assert not torch.equal(weights[0].lm_head.weight, weights[1].lm_head.weight)


def test_the_base_is_run_as_the_policy_is(tmp_path: Path) -> None:
    changes = {"dtype": "bfloat16", "warmup_ratio": 0.5}
    assert tuned(tmp_path / "a", "iw_sft,level=token", rows(40), **changes)["first"]["mean_weight"] == 1
    anchored = tuned(tmp_path / "b", "asft,kl=10", rows(40), **changes)["first"]["loss"]
    assert anchored == pytest.approx(tuned(tmp_path / "c", "dft", rows(40), **changes)["first"]["loss"], abs=1e-5)


def test_adapters_on_embeddings_that_are_the_head_too_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="embeddings"):
        tuned(tmp_path, "sft", rows(16), lora_rank=2, lora_targets=("embed_tokens",))


def test_weights_that_are_not_finite_are_not_delivered(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="finite"):
        tuned(tmp_path, "sft", rows(8), learning_rate=float("inf"))
    assert not list((tmp_path / "checkpoints").glob("[!.]*"))


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_train
test_train.gate_updates(Path({gate!r}))
test_train.tuned(Path({folder!r}), {loss!r}, test_train.rows(200), save_every=5, epochs=2, **{changes!r})
"""


def gate_updates(gate: Path) -> None:
    """Every update of this process passes a gate."""
    told = train_module._Progress.on_step_end

    def on_step_end(*given: Any, **named: Any) -> None:
        told(*given, **named)
        wait_at(gate)

    train_module._Progress.on_step_end = on_step_end  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("loss", "changes"),
    [
        ("dft", {"holdout": 0.1, "keep": "best"}),
        ("psft,updates=3", {}),
        ("sft", {"lora_rank": 2, "lora_dropout": 0.1}),
    ],
)
def test_a_killed_training_goes_on_from_its_last_checkpoint_with_the_same_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str, changes: dict[str, Any]
) -> None:
    tuned(tmp_path / "undisturbed", loss, rows(200), save_every=5, epochs=2, **changes)
    folder = tmp_path / "killed"
    gate, tests = tmp_path / "gate", str(Path(__file__).parent)
    shut(gate, 15)
    script = KILLED.format(tests=tests, gate=str(gate), folder=str(folder), loss=loss, changes=changes)
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    seen = folder / "training" / "x" / "metrics.jsonl"
    while process.poll() is None and not (seen.exists() and len(seen.read_text(encoding="utf-8").splitlines()) >= 13):
        time.sleep(0.01)
    assert process.poll() is None
    process.kill()
    process.wait()
    last = max(int(path.parent.name.removeprefix("checkpoint-")) for path in seen.parent.glob("*/trainer_state.json"))
    updates: list[int] = []
    monkeypatch.setattr(
        train_module._Progress,
        "on_step_end",
        lambda _, args, state, control, **given: updates.append(state.global_step),
    )
    tuned(folder, loss, rows(200), save_every=5, epochs=2, **changes)
    assert updates[0] == last + 1 > 5
    for one, other in zip(metrics(tmp_path / "undisturbed"), metrics(folder), strict=True):
        assert one["step"] == other["step"]
        assert one.keys() == other.keys()
        for name in one.keys() - {"step", "rungs"}:
            assert one[name] == pytest.approx(other[name], rel=1e-4), (one["step"], name)


def test_what_another_training_left_is_not_gone_on_with(tmp_path: Path) -> None:
    left = tmp_path / "training" / "x" / "checkpoint-3"
    left.mkdir(parents=True)
    (left.parent / "identity").write_text("another", encoding="utf-8")
    (left / "trainer_state.json").write_text('{"global_step": 3}', encoding="utf-8")
    assert tuned(tmp_path, "sft", rows(40))["updates"] == 3
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3]


def test_an_update_without_a_row_changes_nothing_but_is_counted(tmp_path: Path) -> None:
    given = {row.id: row for row in rows(64)}
    schedule = Schedule(list(given), 16, 1, SETTINGS.seed)
    missing = set(schedule.ids(1))
    source = Source(tuple(given), lambda *_: {id: row for id, row in given.items() if id not in missing})
    tuned(tmp_path, "dft", source)
    lines = metrics(tmp_path)
    assert [line["tokens"] > 0 for line in lines] == [True, False, True, True]
    assert lines[1]["loss"] == lines[1]["grad_norm"] == 0


def test_a_loss_that_is_not_finite_names_the_rows_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    given = rows(16)
    bad = TrainRow("the bad one", "self", given[0].prompt, given[0].response, (float("nan"),) * len(given[0].response))
    given = [
        row if row.behaviour else TrainRow(row.id, row.rung, row.prompt, row.response, (-1.0,) * len(row.response))
        for row in given
    ]
    with pytest.raises(TrainingError, match=r"update 1 \(row the bad one\)"):
        tuned(tmp_path, "is", [*given[1:], bad])
    assert not (tmp_path / "checkpoints").exists() or not list((tmp_path / "checkpoints").iterdir())


def test_rows_without_behaviour_log_probs_are_refused_unless_it_is_said_what_they_follow(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"10 of 32 rows .*10 expert.*others=dft"):
        tuned(tmp_path, "is", rows(32))
    assert tuned(tmp_path, "is,others=sft", rows(32))["updates"] == 2


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nothing to train"):
        tuned(tmp_path, "sft", [])


def test_what_training_rows_end_with_ends_a_response_of_the_checkpoint(tmp_path: Path) -> None:
    policy = model()
    policy.generation_config.eos_token_id = 7
    with RunFolder(tmp_path) as folder:
        train(
            "x", open_loss("sft"), source_of(TrainRows(rows(16))), policy, TOKENIZER, SETTINGS, folder, "identity", {}
        )
    saved = json.loads((tmp_path / "checkpoints" / "x" / "generation_config.json").read_text(encoding="utf-8"))
    assert saved["eos_token_id"] == [7, TOKENIZER.training_end]


@pytest.mark.parametrize(
    ("changes", "online", "says"),
    [
        ({"keep": "best"}, False, "holdout"),
        ({"holdout": 0.1, "rounds": 3}, True, "holdout"),
        ({"epochs": 2, "rounds": 3}, True, "epochs"),
        ({"rounds": 1}, True, "at least 2"),
        ({}, True, "at least 2"),
        ({"lora_alpha": 8.0}, False, "lora_rank"),
        ({"lora_targets": ("q_proj",)}, False, "lora_rank"),
        ({"lora_rank": 4, "lora_targets": ("lm_head",)}, False, "head"),
        ({"report_to": ("tensorbord",)}, False, "did you mean tensorboard"),
        ({"report_to": ("wandb",)}, False, "wandb"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], online: bool, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        check_training(Train(**changes), open_loss("sft"), online=online)


def test_adapters_on_layers_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="lora_targets"):
        tuned(tmp_path, "sft", rows(16), lora_rank=2, lora_targets=("no_such_layer",))


def test_more_rounds_than_updates_are_refused(tmp_path: Path) -> None:
    given = {row.id: row for row in rows(32)}
    with pytest.raises(RequestError, match="only 2 updates"):
        tuned(tmp_path, "sft", Source(tuple(given), lambda *_: given, rounds=3))


def test_a_model_whose_logits_are_more_than_a_head_cannot_be_anchored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retell.logprobs._find_head", lambda model: None)
    with pytest.raises(PolicyError, match="asft"):
        tuned(tmp_path, "asft", rows(16))
    assert tuned(tmp_path, "dft", rows(16))["updates"] == 1


@pytest.mark.parametrize("loss", ["iw_sft", "dft"])
def test_a_model_whose_logits_are_more_than_a_head_is_trained_by_its_own_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    through_head = tuned(tmp_path / "a", loss, rows(64))
    monkeypatch.setattr("retell.logprobs._find_head", lambda model: None)
    assert tuned(tmp_path / "b", loss, rows(64))["last"] == pytest.approx(through_head["last"], rel=1e-4)


def test_trackers_get_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, float]] = []

    class Tracker(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            seen.append(logs)

    monkeypatch.setattr("transformers.trainer.get_reporting_integration_callbacks", lambda _: [Tracker])
    tuned(tmp_path, "dft", rows(40), report_to=("tensorboard",))
    assert [line["ess"] for line in seen] == [line["ess"] for line in metrics(tmp_path)]
    assert seen[0]["self/nll"] == metrics(tmp_path)[0]["rungs"]["self"]["nll"]
