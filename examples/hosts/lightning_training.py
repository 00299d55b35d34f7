"""Lightning with telemetry: a model learns energies in eV. Started again, it continues from its last checkpoint."""

import lightning.pytorch as pl
import torch
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from telemetry import Metric
from telemetry.integrations.lightning import TelemetryLogger

distance = torch.linspace(0.6, 3, 500)[:, None]
energy = 4.75 * (1 - torch.exp(-1.94 * (distance - 0.74))) ** 2


class Potential(pl.LightningModule):
    def __init__(self, width: int = 32, lr: float = 0.01):
        super().__init__()
        self.save_hyperparameters()
        self.model = torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))

    def training_step(self, batch, _):
        loss = mse_loss(self.model(batch[0]), batch[1])
        self.log_dict({"train/loss": loss, "train/E_rmse": loss.detach().sqrt()})
        return loss

    def validation_step(self, batch, _):
        self.log("val/E_rmse", mse_loss(self.model(batch[0]), batch[1]).sqrt())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams.lr)


units = {"*/E_rmse": Metric(unit="kcal/mol", source_unit="eV/particle")}
logger = TelemetryLogger("runs/lightning", sinks="tensorboard", metrics=units, resume=True)
trainer = pl.Trainer(
    logger=logger,
    callbacks=[pl.callbacks.ModelCheckpoint(save_last=True)],
    max_epochs=20,
    log_every_n_steps=5,
    enable_progress_bar=False,
)
train, val = (TensorDataset(distance[i::2], energy[i::2]) for i in (0, 1))
trainer.fit(Potential(), DataLoader(train, 25, shuffle=True), DataLoader(val, 250), ckpt_path="last")
