"""A transformers Trainer with telemetry. Started again, it continues from its last checkpoint."""

from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from telemetry import Metric
from telemetry.integrations.huggingface import TelemetryCallback

distance = torch.linspace(0.6, 3, 500)[:, None]
energy = 4.75 * (1 - torch.exp(-1.94 * (distance - 0.74))) ** 2
data = [{"x": x, "labels": y} for x, y in zip(distance, energy, strict=True)]


class Potential(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))

    def forward(self, x, labels):
        return {"loss": torch.nn.functional.mse_loss(self.model(x), labels), "logits": self.model(x)}


def errors(predicted):
    return {"E_rmse": float(((predicted.predictions - predicted.label_ids) ** 2).mean() ** 0.5)}


folder = Path("checkpoints/transformers")
units = {"*/E_rmse": Metric(unit="kcal/mol", source_unit="eV/particle")}
trainer = Trainer(
    Potential(),
    TrainingArguments(
        folder, max_steps=200, logging_steps=5, eval_strategy="steps", eval_steps=20, save_steps=20, report_to="none"
    ),
    train_dataset=data[::2],
    eval_dataset=data[1::2],
    compute_metrics=errors,
    callbacks=[TelemetryCallback("runs/transformers", sinks="tensorboard", metrics=units, resume=True)],
)
trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.is_dir() else None)
