"""The settings of precision, and whether the device supports them."""

import torch
from msgspec.structs import replace
from torch import nn

from aimnet2mult.config.schema import Config
from aimnet2mult.config.sections import Trainer
from aimnet2mult.errors import Problems
from aimnet2mult.models.precision import use_bfloat16, use_float64

__all__ = ["for_evaluation", "prepare_device", "set_precision"]


def set_precision(model: nn.Module, precision: str) -> None:
    """Let a model compute in ``trainer.precision``.

    Raises:
        ModelError: the model does not support it.
    """
    if precision == "float64":
        use_float64(model)
    elif precision == "bfloat16":
        use_bfloat16(model)


def prepare_device(trainer: Trainer, device: torch.device) -> None:
    """Check that the device supports the precision, and switch TF32 on if it is requested.

    Raises:
        ConfigError: it does not; the message has a line for each problem.
    """
    problems = Problems()
    is_cuda = device.type == "cuda"
    if trainer.tf32 and not _has_tf32(device):
        where = torch.cuda.get_device_name(device) if is_cuda else "the CPU"
        problems.add(f"trainer.tf32 is true, but {where} has no TF32; set trainer.tf32=false")
    elif trainer.tf32:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    if trainer.precision == "bfloat16" and is_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        problems.add(f"trainer.precision is bfloat16, which {name} does not support; set trainer.precision=float32")
    problems.raise_any()


def for_evaluation(config: Config, device: torch.device) -> Config:
    """Return the settings of a run without those that only its training needs, as far as the device lacks them.

    Evaluations use TF32 like the validations during the training, but the device may be another one. They never use
    bfloat16.
    """
    trainer = config.trainer
    precision = "float32" if trainer.precision == "bfloat16" else trainer.precision
    return replace(config, trainer=replace(trainer, precision=precision, tf32=trainer.tf32 and _has_tf32(device)))


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
