"""A loop of accelerate with telemetry. Started again, it continues from its last checkpoint."""

from pathlib import Path

import torch
from accelerate import Accelerator

from telemetry import Metric
from telemetry.integrations.accelerate import TelemetryTracker

distance = torch.linspace(0.6, 3, 500)[:, None]
energy = 4.75 * (1 - torch.exp(-1.94 * (distance - 0.74))) ** 2
model = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))

units = {"*/E_rmse": Metric(unit="kcal/mol", source_unit="eV/particle")}
tracker = TelemetryTracker("runs/accelerate", sinks="tensorboard", metrics=units, resume=True)
accelerator = Accelerator(log_with=tracker)
accelerator.init_trackers("potential", config={"lr": 0.01})
model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), 0.01))

checkpoints = sorted(Path("checkpoints/accelerate").glob("step-*"))
first = 1
if checkpoints:
    accelerator.load_state(checkpoints[-1])
    first = int(checkpoints[-1].name.removeprefix("step-")) + 1
for step in range(first, 201):
    loss = torch.nn.functional.mse_loss(model(distance[::2]), energy[::2])
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()
    if step % 5 == 0:
        accelerator.log({"train/loss": loss.detach(), "train/E_rmse": loss.detach().sqrt()}, step)
    if step % 20 == 0:
        with torch.no_grad():
            accelerator.log({"val/E_rmse": (model(distance[1::2]) - energy[1::2]).square().mean().sqrt()}, step)
        accelerator.save_state(f"checkpoints/accelerate/step-{step:06}")
accelerator.end_training()
