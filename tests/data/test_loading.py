"""Which rows each batch holds, on every rank."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refusals import refused_with
from spikesparse import CIFAR10DataModule
from spikesparse.data.arrays import Images
from spikesparse.data.loading import BatchRows, IndexedImages, batch_loader
from spikesparse.data.philox import SHUFFLE, permutation


def batches(size, batch_size, training, drop_last=False, shuffle=True, seed=0, world=1, rank=0, epoch=0):
    """The rows of every batch of a rank, as lists; len() is checked on the way."""
    rows = BatchRows(size, batch_size, training, drop_last, shuffle, seed, world, rank)
    rows.set_epoch(epoch)
    lists = [batch.tolist() for batch in rows]
    assert len(rows) == len(lists)
    return lists


@pytest.mark.parametrize(
    ("drop_last", "expected"),
    [(False, [[0, 1, 2], [3, 4, 5], [6, 7]]), (True, [[0, 1, 2], [3, 4, 5]])],
)
def test_training_cuts_the_order_in_batches(drop_last, expected):
    assert batches(8, 3, training=True, drop_last=drop_last, shuffle=False) == expected


def test_two_ranks_share_each_global_batch():
    ranks = [batches(11, 2, training=True, shuffle=False, world=2, rank=rank) for rank in range(2)]
    assert ranks == [[[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7], [10]]]


def test_remainder_with_fewer_rows_than_ranks_is_left_out():
    ranks = [batches(14, 2, training=True, shuffle=False, world=3, rank=rank) for rank in range(3)]
    assert ranks == [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(0, 60),
    batch_size=st.integers(1, 9),
    world=st.integers(1, 5),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 9),
)
def test_training_ranks_partition_each_global_batch(size, batch_size, world, drop_last, shuffle, seed, epoch):
    ranks = [batches(size, batch_size, True, drop_last, shuffle, seed, world, rank, epoch) for rank in range(world)]
    order = permutation(seed, SHUFFLE, epoch, size).tolist() if shuffle else list(range(size))
    step = batch_size * world
    chunks = [order[start : start + step] for start in range(0, size, step)]
    least = step if drop_last else world  # rows that the last global batch must have
    chunks = [chunk for chunk in chunks if len(chunk) >= least]
    assert [[row for share in shares for row in share] for shares in zip(*ranks, strict=True)] == chunks
    assert all(1 <= len(batch) <= batch_size for rank in ranks for batch in rank)


@settings(deadline=None, max_examples=60)
@given(size=st.integers(0, 60), batch_size=st.integers(1, 9), world=st.sampled_from([1, 2, 3, 7]))
def test_evaluation_reads_each_row_once_in_order(size, batch_size, world):
    ranks = [batches(size, batch_size, training=False, world=world, rank=rank) for rank in range(world)]
    assert [row for rank in ranks for batch in rank for row in batch] == list(range(size))
    for rank in ranks:
        assert max(map(len, rank)) <= batch_size
        assert rank == [[]] or all(rank)  # without a row: one empty batch


def test_ranks_without_a_row_get_one_empty_batch():
    ranks = [batches(2, 4, training=False, world=3, rank=rank) for rank in range(3)]
    assert ranks == [[[0]], [[1]], [[]]]


def test_evaluation_ignores_shuffle_and_drop_last():
    assert batches(5, 2, training=False, drop_last=True, shuffle=True) == [[0, 1], [2, 3], [4]]


def test_order_depends_on_epoch_and_seed():
    orders = [batches(20, 20, True, seed=seed, epoch=epoch)[0] for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(20)) for order in orders)


# the loader


def make_loader(size=7, batch_size=3, training=True):
    """Images whose pixels and labels tell which they are; the dataset holds every second one."""
    place = torch.arange(2 * size)
    images = Images(place.to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2).clone(), place + 100)
    rows = BatchRows(size, batch_size, training, drop_last=False, shuffle=True, seed=4, world=1, rank=0)
    return batch_loader(IndexedImages(images, place[::2]), rows, num_workers=0, pin_memory=False)


def test_loader_gives_images_labels_and_their_place_in_the_source():
    loader = make_loader()
    order = [2 * row for row in permutation(4, SHUFFLE, 0, 7).tolist()]
    loaded = list(loader)
    assert len(loader) == 3
    assert [batch.indices.tolist() for batch in loaded] == [order[:3], order[3:6], order[6:]]
    for batch in loaded:
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape == (len(batch.indices), 3, 2, 2)
        assert batch.images.float().mean((1, 2, 3)).tolist() == batch.indices.tolist()
        assert batch.labels.tolist() == (batch.indices + 100).tolist()


@pytest.mark.parametrize("training", [True, False])
def test_iterating_leaves_torchs_random_state_alone(training):
    loader = make_loader(training=training)
    before = torch.get_rng_state()
    for _ in range(2):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_resident_images_are_those_of_the_source_on_the_device(tiny_npz):
    """The "meta" device stands in for an accelerator: there is nothing else to copy to here."""

    class OnMeta:
        world_size, global_rank = 1, 0

        class strategy:
            root_device = torch.device("meta")

    data = CIFAR10DataModule(source="npz", data_dir=str(tiny_npz), batch_size=8, resident=True)
    plain = list(data.val_dataloader())
    assert plain[0].images.device.type == "cpu"  # without a trainer there is no device
    data.trainer = OnMeta
    loaded = list(data.val_dataloader())
    assert [batch.images.shape for batch in loaded] == [batch.images.shape for batch in plain]
    assert all(part.device.type == "meta" for batch in loaded for part in batch)
    assert data.train_dataloader().dataset.images is data.val_dataloader().dataset.images


def test_resident_images_and_workers_are_refused():
    with refused_with(r"--data.num_workers=2: worker processes cannot reach"):
        CIFAR10DataModule(resident=True, num_workers=2)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_part_of_an_evaluation_is_a_fair_sample_of_images_sorted_by_class(tmp_path, split):
    labels = np.arange(400) // 100  # 4 classes, one behind the other
    arrays = {f"x_{part}": np.zeros((400, 4, 4, 3), np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "sorted.npz", **arrays, y_train=labels, y_test=labels)
    settings = {"source": "npz", "data_dir": str(tmp_path / "sorted.npz"), "val_split": 200, "batch_size": 40}
    data, other = (CIFAR10DataModule(**settings, draw_seed=seed) for seed in (0, 1))
    loader = data.val_dataloader() if split == "val" else data.test_dataloader()
    first = next(iter(loader))
    assert min(torch.bincount(first.labels, minlength=4)) >= 4  # of ten expected
    rows = torch.cat([batch.indices for batch in loader])
    expected = data.split[1] if split == "val" else torch.arange(400)
    assert rows.sort().values.tolist() == expected.tolist()
    if split == "test":  # the seed chooses another validation split, and no other order
        assert torch.equal(torch.cat([batch.indices for batch in other.test_dataloader()]), rows)


@pytest.mark.parametrize("training", [True, False])
def test_rows_are_where_the_images_are(training):
    rows = BatchRows(10, 4, training, drop_last=False, shuffle=True, seed=4, world=1, rank=0, device="meta")
    assert [(len(each), each.device.type) for each in rows] == [(4, "meta"), (4, "meta"), (2, "meta")]
