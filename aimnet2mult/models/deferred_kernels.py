"""Import of aimnet's modules without nvalchemiops, whose kernels few models use.

aimnet calls these kernels for D3 corrections and for Coulomb energies with a cutoff. Their import takes several seconds
and 300 MB in each process.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["import_aimnet", "import_deferring"]

DEFERRED = {
    "nvalchemiops.neighbors": ("NeighborOverflowError",),
    "nvalchemiops.torch.interactions.dispersion": ("dftd3",),
    "nvalchemiops.torch.interactions.electrostatics": (
        "dsf_coulomb",
        "estimate_ewald_parameters",
        "estimate_pme_parameters",
        "ewald_summation",
        "particle_mesh_ewald",
    ),
    "nvalchemiops.torch.neighbors": ("neighbor_list",),
}
"""The names that ``aimnet.modules.lr`` imports, by module: functions that it only calls, and an error that they
raise."""


def import_aimnet() -> None:
    """Import ``aimnet.modules``, and nvalchemiops only when aimnet calls it."""
    import_deferring("aimnet.modules.lr", DEFERRED)


def import_deferring(user: str, deferred: Mapping[str, Sequence[str]]) -> None:
    """Import a module, and other modules only when it calls one of their functions.

    If the module needs anything else of them while it is imported, they are imported at once.

    Args:
        user: The module.
        deferred: Names that it imports, by the module that they come from. It may call functions, and catch the errors
            that these raise, but not use classes in any other way.
    """
    if user not in sys.modules and not deferred.keys() & sys.modules.keys():
        sys.modules.update({module: _stand_in(module, user, deferred) for module in deferred})
        try:
            import_module(user)
        except Exception:  # noqa: BLE001, S110 - unless caused by a stand-in, it is raised again below
            pass
        finally:
            for module in deferred:
                del sys.modules[module]
    import_module(user)


def _stand_in(module: str, user: str, deferred: Mapping[str, Sequence[str]]) -> ModuleType:
    def function(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            _replace_stand_ins(user, deferred)
            return getattr(sys.modules[user], name)(*args, **kwargs)

        return call

    stand_in = ModuleType(module)
    vars(stand_in).update({name: function(name) for name in deferred[module]})
    return stand_in


def _replace_stand_ins(user: str, deferred: Mapping[str, Sequence[str]]) -> None:
    for module, names in deferred.items():
        found = import_module(module)
        vars(sys.modules[user]).update({name: getattr(found, name) for name in names})
