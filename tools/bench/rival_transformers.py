"""Ways of Transformers and PEFT: `text.py` runs this with the interpreter that has them.

Reads from the standard input what `text.py` asks for, as JSON; prints the test accuracy.

`frozen` takes the mean over a text's pieces, of texts of like length together, and scikit-learn's
logistic regression, whose strength the validation texts choose. `peft` is the stock classifier with
LoRA on query and value (rank 8, alpha 16, dropout 0.1), and the `Trainer` as in PEFT's quicktour:
batches of 32, 1e-3, weight decay 0.01; the epoch with the best validation accuracy.
"""

# mypy: ignore-errors

from __future__ import annotations

import json
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, set_seed


def frozen(asked: dict) -> float:
    """Classifies features of the frozen model."""
    from sklearn.linear_model import LogisticRegression

    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    model = AutoModel.from_pretrained(asked["model"]).eval()

    def features(texts: list[str]) -> np.ndarray:
        order = np.argsort([len(text) for text in texts])
        means = np.empty((len(texts), model.config.hidden_size), np.float32)
        for rows in np.array_split(order, max(len(texts) // asked["batch"], 1)):
            inputs = tokenizer([texts[i] for i in rows], truncation=True, padding=True,
                               max_length=asked["length"], return_tensors="pt")  # fmt: skip
            with torch.no_grad():
                last = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            means[rows] = ((last * mask).sum(1) / mask.sum(1)).numpy()
        return means

    (x, y), (x_val, y_val), (x_test, y_test) = [(features(t), each) for t, each in asked["parts"]]
    scale = x.std(0) + 1e-6  # a feature may be dead
    x, x_val, x_test = x / scale, x_val / scale, x_test / scale
    models = [LogisticRegression(C=c, max_iter=2000).fit(x, y) for c in asked["strengths"]]
    return max(models, key=lambda model: model.score(x_val, y_val)).score(x_test, y_test)


def peft(asked: dict) -> float:
    """Trains adapters as PEFT's quicktour does."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    model = AutoModelForSequenceClassification.from_pretrained(
        asked["model"], num_labels=asked["classes"]
    )
    adapters = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, lora_dropout=0.1,
                          target_modules=["query", "value"])  # fmt: skip
    train, val, test = (
        [{**tokenizer(text, truncation=True, max_length=asked["length"]), "labels": label}
         for text, label in zip(*part, strict=True)]
        for part in asked["parts"]
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, learning_rate=1e-3, per_device_train_batch_size=asked["batch"],
            per_device_eval_batch_size=asked["batch"], num_train_epochs=asked["epochs"],
            weight_decay=0.01, eval_strategy="epoch", save_strategy="epoch", report_to="none",
            load_best_model_at_end=True, metric_for_best_model="accuracy", seed=asked["seed"],
            disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            get_peft_model(model, adapters), arguments, train_dataset=train, eval_dataset=val,
            data_collator=DataCollatorWithPadding(tokenizer), compute_metrics=lambda found: {
                "accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
        )  # fmt: skip
        trainer.train()
        return trainer.evaluate(test)["eval_accuracy"]


if __name__ == "__main__":
    told = json.load(sys.stdin)
    set_seed(told["seed"])
    print(({"frozen": frozen, "peft": peft}[told["way"]])(told))
