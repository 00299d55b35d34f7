"""The settings of precision and compilation, and whether the device and torch support them."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from aimnet2mult.config.sections import Trainer
from aimnet2mult.errors import ConfigError, Problems
from aimnet2mult.models.precision import use_bfloat16, use_float64
from telemetry.errors import format_error

__all__ = ["Compiled", "prepare_device", "set_precision"]

TRACE_GRADIENTS = "trace_autograd_ops"
"""Option of torch's compiler to treat the gradient that yields the forces as part of the model.

Without it, the forces have no gradient.
"""


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
    """Check that the device and torch support the precision and compilation, and switch TF32 on if it is requested.

    Raises:
        ConfigError: they do not; the message has a line for each problem.
    """
    problems = Problems()
    is_cuda = device.type == "cuda"
    if trainer.tf32 and not (is_cuda and torch.cuda.get_device_capability(device) >= (8, 0)):
        where = torch.cuda.get_device_name(device) if is_cuda else "the CPU"
        problems.add(f"trainer.tf32 is true, but {where} has no TF32; set trainer.tf32=false")
    elif trainer.tf32:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    if trainer.precision == "bfloat16" and is_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        problems.add(f"trainer.precision is bfloat16, which {name} does not support; set trainer.precision=float32")
    if trainer.compile and not hasattr(_compiler_options(), TRACE_GRADIENTS):
        problems.add(
            f"trainer.compile is true, but torch {torch.__version__} cannot compile a model whose forces are trained; "
            "install a newer torch, or set trainer.compile=false"
        )
    problems.raise_any()


class Compiled(nn.Module):
    """A compiled version of a model, which shares its weights; the model itself remains as it is.

    It is compiled when it is first called, for all sizes of batches as far as the compiler can.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        setattr(_compiler_options(), TRACE_GRADIENTS, True)
        self.model = torch.compile(model, dynamic=True)

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Call the model.

        Raises:
            ConfigError: it cannot be compiled.
        """
        from torch._dynamo.exc import TorchDynamoException

        try:
            return cast("dict[str, Tensor]", self.model(data))
        except TorchDynamoException as error:
            raise ConfigError(
                f"trainer.compile is true, but torch cannot compile the model: {format_error(error):.500}; "
                "set trainer.compile=false"
            ) from error


def _compiler_options() -> Any:
    # Importing the compiler takes a second.
    from torch._dynamo import config

    return config
