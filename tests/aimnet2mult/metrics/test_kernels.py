"""The Warp kernels agree with NumPy for arrays of every kind, and torch replaces them where they cannot be used."""

import ctypes
import gc
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from aimnet2mult.metrics import kernel_choice
from aimnet2mult.metrics.batch import Batch
from aimnet2mult.metrics.batch_table import BatchTable
from aimnet2mult.metrics.error_sums import ErrorSums, Slot
from aimnet2mult.metrics.fused_update import describe
from aimnet2mult.metrics.kernel_types import Table
from aimnet2mult.metrics.kernels import BLOCKS, LANES, add_structures, finish
from aimnet2mult.metrics.layout import QUANTITIES, Layout, LossTerms
from aimnet2mult.metrics.losses import Losses
from aimnet2mult.quantities import LABELS as BUILT_IN
from aimnet2mult.quantities import Label

TENSORS = Label(
    name="tensors", abbr="T", per_atom=True, components=2, source_unit="1", unit="1", text="a declared label"
)
LABELS = {**BUILT_IN, "tensors": TENSORS}
ALL = tuple(LABELS.values())
TERMS = LossTerms(names=("a", "b", "c"), weights=(1.0, 1.0, 1.0))
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

Arguments = tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor, Mapping[str, Tensor] | None, Tensor | None]
"""The arguments of `ErrorSums.update`."""

# ---- batches -----------------------------------------------------------------------------------------


def in_memory(draw: st.DrawFn, array: Tensor) -> Tensor:
    """Return the same values in another order in memory."""
    kind = draw(st.sampled_from(["contiguous", "contiguous", "reversed axes", "slice", "every second", "offset"]))
    if kind == "reversed axes":
        axes = tuple(reversed(range(array.ndim)))
        return array.permute(axes).contiguous().permute(axes)
    if kind == "slice":
        wide = array.new_zeros(*array.shape[:-1], array.shape[-1] + 3)
        wide[..., 1 : 1 + array.shape[-1]] = array
        return wide[..., 1 : 1 + array.shape[-1]]
    if kind == "every second":
        return array.repeat_interleave(2, 0)[::2]
    if kind == "offset":
        return torch.cat((array[:1], array))[1:]
    return array.contiguous()


def drawn_mask(draw: st.DrawFn, rng: np.random.Generator, label: Label, structures: int, atoms: int) -> Tensor:
    shapes = [(structures,), (structures, 1)]
    if label.per_atom:
        shapes += [(structures, atoms), (structures, atoms, 1)]
    shape = draw(st.sampled_from(shapes))
    flags = torch.from_numpy(rng.random(shape) < 0.7)
    if draw(st.booleans()):
        return in_memory(draw, flags.to(draw(st.sampled_from([torch.bool, *INTEGERS, *FLOATS]))))
    return flags[:1].expand(shape)


@st.composite
def batches(draw: st.DrawFn, labels: Sequence[Label], fidelities: int) -> Arguments:
    """Draw the arguments of an update."""
    structures, atoms = draw(st.integers(0, 6)), draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    numbers = rng.integers(1, 100, (structures, atoms))
    padding = draw(st.sampled_from(["none", "at the end", "anywhere"]))
    if padding == "at the end":
        numbers[np.arange(atoms) >= rng.integers(0, atoms + 1, (structures, 1))] = 0
    elif padding == "anywhere":
        numbers[rng.random(numbers.shape) < 0.3] = 0
    pred: dict[str, Tensor] = {}
    true: dict[str, Tensor] = {}
    for label in labels:
        if draw(st.integers(0, 9)) == 0:
            continue
        shape = label.shape(structures, atoms)
        values = torch.from_numpy(rng.integers(-64, 65, shape) / 8)
        errors = torch.from_numpy(rng.integers(-8, 9, shape) / 16)
        missing = torch.from_numpy(rng.random(shape) < draw(st.sampled_from([0.0, 0.3, 1.0])))
        p = (values + errors).to(draw(st.sampled_from(FLOATS)))
        t = values.masked_fill(missing, draw(st.sampled_from([math.nan, math.inf, -math.inf])))
        t = t.to(draw(st.sampled_from(FLOATS))) if draw(st.integers(0, 4)) else values.to(torch.int16)
        if draw(st.booleans()):
            p = p.masked_fill(torch.from_numpy(rng.random(shape) < 0.1), draw(st.sampled_from([math.nan, math.inf])))
        if label.components == 1 and draw(st.booleans()):
            p = p.unsqueeze(-1)
        pred[label.name] = in_memory(draw, p).requires_grad_(draw(st.booleans()))
        true[label.name] = in_memory(draw, t)
        if draw(st.booleans()):
            true[f"{label.name}_mask"] = drawn_mask(draw, rng, label, structures, atoms)
    loss: Mapping[str, Tensor] | None = None
    kind = draw(st.sampled_from(["none", "components", "total"]))
    if kind == "components":
        sums = torch.from_numpy(rng.integers(0, 100, (2, 3))).to(draw(st.sampled_from(FLOATS)))
        loss = Losses({"loss": torch.tensor(1e9)}, sums.t().contiguous().t() if draw(st.booleans()) else sums)
    elif kind == "total":
        loss = {"loss": torch.tensor(0.1, dtype=draw(st.sampled_from(FLOATS)))}
    return (
        pred,
        true,
        torch.from_numpy(numbers).to(draw(st.sampled_from([*INTEGERS, torch.float32]))),
        in_memory(
            draw, torch.from_numpy(rng.integers(0, fidelities, structures)).to(draw(st.sampled_from(INTEGERS[:2])))
        ),
        loss,
        draw(st.sampled_from([None, torch.tensor(True), torch.tensor(False)])),
    )


# ---- the reference: loops over structures, atoms and components, in float64 --------------------------


def as_float64(array: Tensor) -> NDArray[np.float64]:
    return array.detach().double().numpy()


def counted(arguments: Arguments, label: Label, b: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the predictions and labels of a structure that count, one after another."""
    pred, true, numbers, *_ = arguments
    none = np.zeros(0)
    if label.name not in true:
        return none, none
    mask = true.get(f"{label.name}_mask")
    allowed = np.ones(1) if mask is None else as_float64(mask)[b].reshape(-1)
    p, t = (as_float64(part[label.name])[b].reshape(-1) for part in (pred, true))
    real = as_float64(numbers)[b] != 0
    if label.per_atom:
        keep = np.repeat(real & (allowed != 0), label.components)
    else:
        keep = np.full(label.components, real.any() and allowed[0] != 0)
    keep = keep & np.isfinite(t)
    return p[keep], t[keep]


def sums_of_structure(arguments: Arguments, layout: Layout, b: int) -> tuple[NDArray[np.float64], bool]:
    """Return what a structure adds to the cells of its fidelity, and whether it is kept."""
    found = [counted(arguments, label, b) for label in layout.labels]
    with np.errstate(all="ignore"):
        squares = [np.sum((p - t) ** 2) for p, t in found]
        kept = layout.quantities != QUANTITIES or bool(np.isfinite(squares).all())
        cells: list[float] = []
        for (p, t), square in zip(found, squares, strict=True):
            rows = [square, len(p), np.abs(p - t).sum(), t.sum(), np.sum(t * t), 0] if kept else [0] * 5 + [len(p)]
            cells += rows[: len(layout.quantities)]
        if layout.has_energy:
            natom = max(1, int((as_float64(arguments[2])[b] != 0).sum()))
            cells.append(squares[layout.names.index("energy")] / natom**2 if kept else 0)
    return np.array(cells, dtype=np.float64), kept


def expected_slots(done: Sequence[Arguments], layout: Layout) -> NDArray[np.float64]:
    """Return all slots after these updates."""
    slots = np.zeros((3, layout.cells))
    for arguments in done:
        _, true, numbers, fidelity, loss, applied = arguments
        batch = np.zeros(layout.cells)
        keeps = []
        for b in range(len(numbers)):
            cells, kept = sums_of_structure(arguments, layout, b)
            first = int(fidelity[b]) * layout.stride
            batch[first : first + layout.stride] += cells
            keeps.append(kept)
        batch[-1] = keeps.count(False)
        terms = batch[layout.errors : -1].reshape(2, layout.terms)
        if isinstance(loss, Losses):
            assert loss.sums_and_counts is not None
            terms[:, :-1] = as_float64(loss.sums_and_counts)
        elif loss is not None:
            arrays = [as_float64(x) for key, x in true.items() if not key.endswith("_mask")]
            labeled = [any(not np.isnan(x[b]).all() for x in arrays if x[b].size) for b in range(len(numbers))]
            count = sum(kept and found for kept, found in zip(keeps, labeled, strict=True))
            terms[:, -1] = as_float64(loss["loss"]) * count, count
        slots[Slot.BATCH] = batch
        if applied is None or applied:
            slots[1:] += batch
        else:
            slots[1:, -1] += 1
    return slots


def slots_of(sums: ErrorSums) -> NDArray[np.float64]:
    return sums.snapshot().wait().copy()


def update(sums: ErrorSums, arguments: Arguments) -> None:
    *arrays, applied = arguments
    sums.update(*arrays, applied=applied)


# ---- numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantities", [QUANTITIES, QUANTITIES[:2]])
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_sum_agrees_with_numpy_for_arrays_of_every_kind(quantities: tuple[str, ...], data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.sampled_from(ALL), min_size=1, unique=True))
    fidelities = data.draw(st.integers(1, 8))
    drawn = data.draw(st.lists(batches(labels, fidelities), min_size=1, max_size=3))
    with_kernel, with_torch = (
        ErrorSums(labels, fidelities, "cpu", quantities, loss=TERMS, kernel=kernel) for kernel in (True, False)
    )
    assert with_kernel.uses_kernel
    if all(arguments[1] and arguments[2].numel() for arguments in drawn):
        # Torch is only needed for arrays without memory and for a loss without labels.
        with_kernel._torch = None  # type: ignore[assignment]
    for arguments in drawn:
        for sums in (with_kernel, with_torch):
            update(sums, arguments)
    expected = expected_slots(drawn, with_kernel.layout)
    for sums in (with_kernel, with_torch):
        np.testing.assert_allclose(slots_of(sums), expected, rtol=1e-13, atol=0)


def make_arguments(
    structures: int, atoms: int, *, seed: int = 0, labels: Sequence[Label] = ALL, fidelities: int = 3
) -> Arguments:
    """Return float32 arguments with padding and missing labels."""
    rng = torch.Generator().manual_seed(seed)
    true = {label.name: torch.randn(label.shape(structures, atoms), generator=rng) for label in labels}
    pred = {name: x + 0.1 * torch.randn(x.shape, generator=rng) for name, x in true.items()}
    for array in true.values():
        array[torch.rand(array.shape, generator=rng) < 0.1] = math.nan
    numbers = torch.randint(1, 10, (structures, atoms), generator=rng)
    numbers[torch.arange(atoms) >= torch.randint(1, atoms + 1, (structures, 1), generator=rng)] = 0
    fidelity = torch.randint(0, fidelities, (structures,), generator=rng)
    loss = Losses({"loss": torch.tensor(0.5)}, torch.rand((2, 3), generator=rng, dtype=torch.float64))
    return pred, true, numbers, fidelity, loss, None


@pytest.mark.parametrize("name", [label.name for label in ALL])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
def test_the_kernel_finds_the_same_structures_without_finite_predictions(name: str, bad: float) -> None:
    arguments = make_arguments(12, 4)
    pred, true, numbers, *_ = arguments
    pred[name] = pred[name].double()
    pred[name][[2, 7]] = bad
    true[name][2] = 0.25
    found = [ErrorSums(ALL, 3, kernel=kernel).find_finite(pred, true, numbers) for kernel in (True, False)]
    assert torch.equal(*found)
    assert not found[0][2]
    expected = [sums_of_structure(arguments, ErrorSums(ALL, 3).layout, b)[1] for b in range(12)]
    assert found[0].tolist() == expected


def test_sums_are_bit_identical_between_runs_and_for_any_number_of_threads() -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 1, 2, 4):
            torch.set_num_threads(threads)
            sums = ErrorSums(ALL, 3, loss=TERMS)
            for seed in range(5):
                update(sums, make_arguments(300, 7, seed=seed))
            found.append(slots_of(sums).tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1


def test_memory_does_not_grow_over_ten_thousand_updates_with_changing_shapes() -> None:
    sums = ErrorSums(ALL, 3, "cpu", QUANTITIES[:2], loss=TERMS)
    batches_ = [make_arguments(1 + seed % 37, 1 + seed % 11, seed=seed) for seed in range(100)]

    def resident_after(rounds: int) -> int:
        for _ in range(rounds):
            for arguments in batches_:
                update(sums, arguments)
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident_after(10)
    assert resident_after(100) - before < 2**18


# ---- misuse ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("index", [-1, 3, 100])
def test_an_out_of_range_fidelity_is_named_and_changes_nothing(index: int, dtype: torch.dtype) -> None:
    sums = ErrorSums(ALL, 3, loss=TERMS)
    update(sums, make_arguments(5, 4))
    before = slots_of(sums)
    pred, true, numbers, fidelity, loss, applied = make_arguments(5, 4, seed=1)
    fidelity[3] = index
    with pytest.raises(IndexError, match=rf"the fidelities are \[.*{index}.*\]; expected 0 to 2"):
        update(sums, (pred, true, numbers, fidelity.to(dtype), loss, applied))
    np.testing.assert_array_equal(slots_of(sums), before)
    update(sums, make_arguments(5, 4))
    np.testing.assert_array_equal(slots_of(sums)[1:], 2 * before[1:])


def swapped(name: str, array: Callable[[Tensor], Tensor]) -> Callable[[Arguments], Arguments]:
    def change(arguments: Arguments) -> Arguments:
        pred, *rest = arguments
        return ({**pred, name: array(pred[name])}, *rest)

    return change


def with_pending_sign(array: Tensor) -> Tensor:
    """Return the same values, which are stored with the opposite sign."""
    found = torch.complex(torch.zeros_like(array), -array).conj().imag
    assert found.is_neg()
    return found


def with_pending_signs_of_labels(arguments: Arguments) -> Arguments:
    pred, true, *rest = arguments
    return pred, {name: with_pending_sign(array) for name, array in true.items()}, *rest


def with_pending_sign_of_loss(arguments: Arguments) -> Arguments:
    *arrays, loss, applied = arguments
    assert isinstance(loss, Losses)
    assert loss.sums_and_counts is not None
    return *arrays, Losses({"loss": loss["loss"]}, with_pending_sign(loss.sums_and_counts)), applied


def with_pending_sign_of_total(arguments: Arguments) -> Arguments:
    *arrays, _, applied = arguments
    return *arrays, {"loss": with_pending_sign(torch.tensor(0.5))}, applied


@pytest.mark.parametrize(
    "change",
    [
        swapped("energy", with_pending_sign),
        with_pending_signs_of_labels,
        with_pending_sign_of_loss,
        with_pending_sign_of_total,
        swapped("energy", lambda x: x.mul(8).round().abs().to(torch.uint16)),
        lambda arguments: (*arguments[:5], torch.ones(1, dtype=torch.bool)),
    ],
    ids=["prediction's sign", "labels' signs", "sign of the sums", "loss's sign", "unsigned", "flag with an axis"],
)
def test_torch_computes_what_the_kernel_cannot_read(change: Callable[[Arguments], Arguments]) -> None:
    arguments = change(make_arguments(6, 3))
    found = []
    for kernel in (True, False):
        sums = ErrorSums(ALL, 3, loss=TERMS, kernel=kernel)
        update(sums, arguments)
        found.append(slots_of(sums))
    np.testing.assert_array_equal(*found)
    assert found[0][Slot.EPOCH].any()


# ---- faults ------------------------------------------------------------------------------------------


def test_without_warp_torch_computes_the_sums_after_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "aimnet2mult.metrics.fused_update", None)
    kernel_choice._warn.cache_clear()
    with caplog.at_level(logging.WARNING):
        sums = [ErrorSums(ALL, 3, loss=TERMS) for _ in range(3)]
    kernel_choice._warn.cache_clear()
    (message,) = caplog.messages
    assert message.startswith("the Warp kernel for the error sums cannot be used (ModuleNotFoundError: ")
    assert message.endswith("); torch computes them")
    arguments = make_arguments(6, 3)
    update(sums[0], arguments)
    assert not sums[0].uses_kernel
    np.testing.assert_allclose(slots_of(sums[0]), expected_slots([arguments], sums[0].layout), rtol=1e-13)


def test_more_labels_than_the_kernel_can_hold_are_summed_by_torch(caplog: pytest.LogCaptureFixture) -> None:
    labels = [
        Label(name=f"x{i}", abbr=f"x{i}", per_atom=bool(i % 2), source_unit="1", unit="1", text="x") for i in range(17)
    ]
    kernel_choice._warn.cache_clear()
    sums = ErrorSums(labels, 3)
    assert not sums.uses_kernel
    assert "there are 17 labels; expected up to 16" in caplog.text
    assert ErrorSums(labels[:16], 3).uses_kernel


PROGRAM = """
import sys, torch, warp
from aimnet2mult.metrics import kernels
from aimnet2mult.metrics.error_sums import ErrorSums
from aimnet2mult.quantities import LABELS
if len(sys.argv) > 1:
    warp.config.kernel_cache_dir = sys.argv[1]
print(ErrorSums(tuple(LABELS.values()), 2).uses_kernel, warp.config.kernel_cache_dir)
"""


def run_program(home: str, *arguments: str) -> Any:
    environment = {key: value for key, value in os.environ.items() if key not in {"WARP_CACHE_PATH", "XDG_CACHE_HOME"}}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    environment |= {"HOME": home}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)


@pytest.mark.slow
def test_without_a_writable_home_the_kernel_is_compiled_in_a_temporary_folder() -> None:
    # Not a folder, so that this holds for root as well.
    done = run_program("/dev/null/home")
    used, folder = done.stdout.split()
    assert used == "True"
    assert done.stderr == ""
    assert not Path(folder).exists()


@pytest.mark.slow
def test_a_kernel_that_cannot_be_compiled_is_replaced_by_torch(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_program(str(tmp_path), str(tmp_path / "file/folder"))
    assert done.stdout.startswith("False")
    (line,) = done.stderr.splitlines()
    assert "cannot be used (NotADirectoryError" in line


@pytest.mark.slow
def test_the_warning_about_a_damaged_compiled_kernel_names_the_folder_to_remove(tmp_path: Path) -> None:
    compiled = tmp_path / "compiled"
    assert run_program(str(tmp_path), str(compiled)).stdout.startswith("True")
    for file in compiled.rglob("*.o"):
        file.write_bytes(file.read_bytes()[:100])
    done = run_program(str(tmp_path), str(compiled))
    assert done.stdout.startswith("False")
    assert f"remove the compiled kernels in {compiled}" in done.stderr


# ---- CUDA --------------------------------------------------------------------------------------------


@pytest.fixture
def cpu_blocks() -> Iterator[None]:
    """Let the threads of a block take turns on the CPU."""
    if not hasattr(warp.config, "enable_cpu_blocks"):
        pytest.skip("this version of Warp runs no blocks on the CPU")
    warp.config.enable_cpu_blocks = True
    yield
    warp.config.enable_cpu_blocks = False


def run_cuda_kernels(arguments: Arguments, quantities: tuple[str, ...]) -> tuple[NDArray[np.float64], Layout]:
    """Return all slots after an update with the kernels for CUDA."""
    layout = ErrorSums(ALL, 3, "cpu", quantities, loss=TERMS).layout
    sums = torch.zeros((3, layout.cells), dtype=torch.float64)
    added = torch.zeros(layout.cells + 1, dtype=torch.float64)
    packed = BatchTable(layout, -1).pack(Batch(*arguments))
    assert packed is not None
    table = Table()
    ctypes.memmove(ctypes.addressof(table), packed[0], len(packed[0]))
    inputs = [table, *describe(layout, skipped_steps=1), warp.from_torch(sums), warp.from_torch(added)]
    shape = (BLOCKS, LANES)
    warp.launch(add_structures, dim=shape, inputs=inputs, device="cpu", block_dim=LANES)
    warp.launch(finish, dim=layout.cells, inputs=inputs, device="cpu")
    return sums.numpy(), layout


@pytest.mark.slow
@pytest.mark.usefixtures("cpu_blocks")
@pytest.mark.parametrize("quantities", [QUANTITIES, QUANTITIES[:2]])
def test_the_kernels_for_cuda_agree_with_numpy_when_their_threads_take_turns(quantities: tuple[str, ...]) -> None:
    pred, true, numbers, fidelity, loss, _ = make_arguments(5, 70)
    numbers[2, 1] = 0
    pred["energy"] = pred["energy"].double()
    pred["charges"][3] = math.inf
    true["forces_mask"] = torch.rand(5, 70) < 0.5
    true["dipole_mask"] = torch.tensor([1, 0, 1, 1, 1])
    total = {"loss": torch.tensor(0.1)}
    for kind, applied in ((loss, None), (total, torch.tensor(False)), (None, torch.tensor(True))):
        arguments = (pred, true, numbers, fidelity, kind, applied)
        found, layout = run_cuda_kernels(arguments, quantities)
        np.testing.assert_allclose(found, expected_slots([arguments], layout), rtol=1e-13, atol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("cpu_blocks")
def test_on_cuda_a_fidelity_out_of_range_makes_all_sums_nan() -> None:
    arguments = make_arguments(5, 4)
    arguments[3][2] = 3
    assert np.isnan(run_cuda_kernels(arguments, QUANTITIES)[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [add_structures, finish])
def test_the_kernels_for_cuda_compile_without_a_gpu(kernel: Any, tmp_path: Path) -> None:
    warp.compile_aot_module(kernel.module, arch=90, module_dir=tmp_path)
    assert list(tmp_path.glob("*.cubin")) or list(tmp_path.glob("*.ptx"))
