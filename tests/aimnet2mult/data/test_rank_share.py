"""The shares of all ranks add up to the batches of a single process."""

from itertools import chain

import numpy as np
import pytest
import torch

from aimnet2mult.data.dataset import DataSet
from aimnet2mult.data.rank_share import BatchLoader, RankShare
from aimnet2mult.data.sampler import MixedFidelitySampler
from support.small_groups import make_group


def dataset() -> DataSet:
    groups = {}
    for atoms, structures in ((3, 23), (4, 5)):
        groups[atoms] = make_group(atoms, structures, labels=("energy", "forces"))
        groups[atoms]["fidelity"] = np.arange(structures) % 2
    return DataSet.of_arrays(groups)


def sampler(**options: object) -> MixedFidelitySampler:
    return MixedFidelitySampler(dataset(), batch_size=5, seed=3, weights={1: 3.0}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("epoch", "start"), [(0, 0), (2, 4)])
def test_each_batch_is_distributed_over_the_ranks(world: int, epoch: int, start: int) -> None:
    order = sampler()
    order.set_epoch(epoch)
    order.set_start(start)
    whole = [batch for (batch,) in order]
    shares = [list(RankShare(order, rank=rank, world=world)) for rank in range(world)]
    assert [len(share) for share in shares] == [len(whole)] * world
    for (group, rows), parts in zip(whole, zip(*shares, strict=True), strict=True):
        items = [item for (item,) in parts]
        assert {number for number, *_ in items} == {group}
        labeled = [own.tolist() for _, own, counts in items if counts]
        assert list(chain(*labeled)) == rows.tolist()
        assert max(map(len, labeled)) - min(map(len, labeled)) <= 1
        # The other ranks get a structure of the batch.
        assert all(own.tolist() == rows[:1].tolist() for _, own, counts in items if not counts)


def test_a_rank_has_as_many_batches_as_a_single_process() -> None:
    assert len(RankShare(sampler(), rank=1, world=4)) == len(sampler())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_empty_share_is_a_structure_without_labels(workers: int) -> None:
    data = dataset()
    order = MixedFidelitySampler(data, batch_size=2, seed=3)
    loaders = [
        BatchLoader(
            data,
            order,
            x=["charge", "numbers"],
            y=["energy", "forces"],
            rank=rank,
            world=3,
            num_workers=workers,
        )
        for rank in range(3)
    ]
    whole = BatchLoader(data, order, x=["charge", "numbers"], y=["energy", "forces"], rank=0, world=1)
    for (x, y), *shares in zip(whole, *loaders, strict=True):
        for part, (x_part, y_part) in enumerate(shares):
            if part < len(x["charge"]):
                assert x_part["charge"].tolist() == x["charge"][part : part + 1].tolist()
                assert y_part["energy"].tolist() == y["energy"][part : part + 1].tolist()
            else:
                assert x_part["charge"].tolist() == x["charge"][:1].tolist()
                assert y_part["energy"].isnan().all()
                assert y_part["forces"].isnan().all()
                assert y_part["forces"].shape == (1, *y["forces"].shape[1:])
            assert x_part["numbers"].dtype == x["numbers"].dtype
            assert y_part["forces"].dtype == y["forces"].dtype


def test_workers_send_copies_instead_of_sharing_the_memory_of_each_tensor() -> None:
    data, keys = dataset(), {"x": ["numbers", "coord"], "y": ["forces"]}
    order = MixedFidelitySampler(data, batch_size=10, seed=3)
    expected = list(BatchLoader(data, order, **keys))
    for batch, other in zip(BatchLoader(data, order, num_workers=1, **keys), expected, strict=True):
        for arrays, others in zip(batch, other, strict=True):
            for key, tensor in arrays.items():
                assert not tensor.is_shared()
                assert tensor.dtype == others[key].dtype
                assert torch.equal(tensor, others[key])
