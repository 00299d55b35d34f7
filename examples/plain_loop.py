"""A plain PyTorch loop with telemetry: a model learns energies in eV, and its curves are in kcal/mol."""

import torch

from telemetry import Metric, open_run

ENERGY = Metric(unit="kcal/mol", source_unit="eV/particle", label="RMSE of the energy")

distance = torch.linspace(0.6, 3, 500)[:, None]
energy = 4.75 * (1 - torch.exp(-1.94 * (distance - 0.74))) ** 2
model = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

with open_run("runs/plain", sinks="tensorboard", metrics={"*/E_rmse": ENERGY}, settings={"every": 100}) as bus:
    for step in range(1, 1001):
        loss = torch.nn.functional.mse_loss(model(distance[::2]), energy[::2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if bus.due("train", step):
            bus.publish("train", step, {"loss": loss.detach(), "E_rmse": loss.detach().sqrt()})
        if step % 500 == 0:
            with torch.no_grad():
                bus.publish("val", step, {"E_rmse": (model(distance[1::2]) - energy[1::2]).square().mean().sqrt()})
