"""A batch size schedule in transformers' Trainer, offline: sizes by examples used, the lr follows, the cosine schedule ends in time.

Run: pip install 'batchwright[transformers]', then python examples/transformers_schedule.py
"""

import tempfile
import warnings

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

import batchwright as bw


def main() -> None:
    """Two epochs, with micro-batches of 8: a batch of 16, then 32, then 64."""
    warnings.simplefilter("ignore")
    set_seed(0)
    # Sequences of 12 tokens with the parity of the first as their class.
    data = [{"input_ids": tokens, "labels": tokens[0] % 2} for tokens in torch.randint(20, (768, 12))]
    config = BertConfig(
        vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=2
    )
    sizes = bw.integrations.BatchSizeTrainerCallback(bw.adapt.Schedule(schedule="0:16 384:32 768:64"))
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            num_train_epochs=2,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            logging_steps=4,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(model=BertForSequenceClassification(config), args=args, train_dataset=data, callbacks=[sizes])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    logged = [entry["batchwright/batch_size"] for entry in trainer.state.log_history if "loss" in entry]
    last = sizes.last
    assert last is not None
    print(f"batch sizes {sorted({int(size) for size in logged})}, {last.num_examples} examples in {last.step} steps")
    print(f"schedule at its end: {trainer.lr_scheduler.last_epoch} of {trainer.state.max_steps} steps")


if __name__ == "__main__":
    main()
