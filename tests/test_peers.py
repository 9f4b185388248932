"""Loss and gradient beside those of TRL, which people would use without retell."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from test_train import TOKENIZER, Gradients, apart, first_gradient, metrics_of, model, rows
from trl import SFTConfig, SFTTrainer


@pytest.mark.parametrize(("loss", "theirs"), [("sft", "nll"), ("dft", "dft")])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
def test_loss_and_gradient_are_those_of_trl(tmp_path: Path, loss: str, theirs: str) -> None:
    given = rows(16)
    # First, for it tells accelerate the precision, whatever an earlier training in this process had.
    ours = first_gradient(tmp_path, loss, torch.float32, 400, given)
    kept = Gradients()
    trainer = SFTTrainer(
        model=model(torch.float32),
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"),
            loss_type=theirs,
            per_device_train_batch_size=16,
            completion_only_loss=True,
            max_length=None,
            max_steps=1,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            dataloader_pin_memory=False,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [
                {
                    "input_ids": [*row.prompt, *row.response],
                    "completion_mask": [0] * len(row.prompt) + [1] * len(row.response),
                }
                for row in given
            ]
        ),
        processing_class=TOKENIZER.tokenizer,
        callbacks=[kept],
    )
    trainer.train()
    assert apart(kept.seen[0], ours) <= 1e-5
    (line,) = metrics_of(tmp_path / "metrics.jsonl")
    assert line["loss"] == pytest.approx(trainer.state.log_history[0]["loss"], rel=1e-5)
