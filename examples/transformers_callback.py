"""transformers' Trainer with a batch size that follows the gradient noise: a tiny GPT-2 made from a configuration, offline.

Run: pip install 'batchwright[transformers]', then python examples/transformers_callback.py
"""

import tempfile
import warnings

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer, TrainingArguments, set_seed

import batchwright as bw


class Counting(torch.utils.data.Dataset):
    """Sequences that count on by a step of their own, modulo 17: two tokens tell all that follow."""

    def __len__(self) -> int:
        return 1024

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        start, step = index % 17, index // 17 % 3 + 1
        tokens = (start + step * torch.arange(16)) % 17
        return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    """Train with micro-batches of 8, from a batch of 16 up."""
    warnings.simplefilter("ignore")
    set_seed(0)
    config = GPT2Config(
        vocab_size=17, n_positions=16, n_embd=32, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None
    )
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # so that Trainer counts the tokens that the loss is taken over
    sizes = bw.integrations.BatchSizeTrainerCallback(bw.adapt.NoiseScale(max_batch_size=256))
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            num_train_epochs=5,
            learning_rate=5e-3,
            lr_scheduler_type="cosine",
            logging_steps=40,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(model=model, args=args, train_dataset=Counting(), callbacks=[sizes])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    for entry in trainer.state.log_history:
        if "loss" in entry:
            size, lr = entry["batchwright/batch_size"], entry["batchwright/lr"]
            print(f"step {entry['step']:4d}  loss {entry['loss']:.3f}  batch {size:4.0f}  lr in force {lr:.2e}")
    last = sizes.last
    assert last is not None
    print(
        f"{last.num_examples} examples in {last.step} optimizer steps, where a batch of 16 takes {trainer.state.max_steps}"
    )


if __name__ == "__main__":
    main()
