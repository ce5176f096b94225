"""The validation split, and cropping and flipping."""

import numpy as np
import pytest
import torch

from refusals import refused_with
from spikesparse import CIFAR10DataModule
from spikesparse.data.augment import augmentation_draws, crop_and_flip, cut_out
from spikesparse.data.loading import Batch
from spikesparse.data.philox import AUGMENT, words
from spikesparse.data.splits import stratified_split


def labels_of(counts):
    """Labels with so many of each class, mixed."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(
    ("counts", "size", "taken"),
    [
        ([5, 3, 2], 4, [2, 1, 1]),  # shares 2, 1.2, 0.8: the third has the largest remainder
        ([7, 7, 7], 4, [2, 1, 1]),  # 4/3 each: the first of equal remainders
        ([10, 10], 5, [3, 2]),
        ([1, 9], 1, [0, 1]),  # 0.1 and 0.9
        ([4, 0, 4], 2, [1, 0, 1]),  # a class without images
        ([30, 50, 20], 0.1, [3, 5, 2]),
        ([30, 50, 20], 0.07, [2, 4, 1]),  # 7 of 100: 2.1, 3.5, 1.4
        ([3, 4], 0.5, [2, 2]),  # round(3.5) is 4: 1.71, 2.29
        ([2, 2], 3, [2, 1]),
    ],
)
def test_each_class_gives_its_share(counts, size, taken):
    labels = labels_of(counts)
    training, validation = stratified_split(labels, size, seed=1)
    assert torch.bincount(labels[validation], minlength=len(counts)).tolist() == taken
    assert torch.bincount(labels[training], minlength=len(counts)).tolist() == [
        n - t for n, t in zip(counts, taken, strict=True)
    ]


def test_parts_are_sorted_and_cover_each_image_once():
    training, validation = stratified_split(labels_of([9, 14, 8]), 7, seed=3)
    for part in (training.tolist(), validation.tolist()):
        assert part == sorted(part)
    assert sorted(training.tolist() + validation.tolist()) == list(range(31))


def test_split_is_a_function_of_the_seed():
    labels = labels_of([40, 40])
    splits = [stratified_split(labels, 20, seed)[1].tolist() for seed in (1, 1, 2, 3)]
    assert splits[0] == splits[1]
    assert len({tuple(split) for split in splits}) == 3


def test_every_image_of_a_class_is_as_likely_to_be_chosen():
    labels = labels_of([12, 8])
    chosen = torch.zeros(20)
    for seed in range(400):
        chosen[stratified_split(labels, 5, seed)[1]] += 1
    # 3 of 12 and 2 of 8 each time: Binomial(400, 1/4), with a standard deviation of 8.7
    assert chosen.min() > 100 - 5 * 8.7
    assert chosen.max() < 100 + 5 * 8.7


@pytest.mark.parametrize("size", [0, 10, 11, -1, 0.0, 1.0, 0.01, -0.5])
def test_split_that_leaves_a_part_empty_is_refused(size):
    with refused_with(rf"--data\.val_split={size}: .*below 10, or a fraction such as 0\.1"):
        stratified_split(labels_of([5, 5]), size, seed=0)


# crop and flip


def augmented(images, index, padding, flip, seed, epoch):
    return crop_and_flip(images, augmentation_draws(seed, epoch, index), padding, flip)


IMAGES = torch.randint(1, 256, (6, 3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
INDEX = torch.tensor([3, 0, 12, 7, 49_999, 8])


def windows(image, padding):
    """Every legal result for an image, by (down, right, mirrored)."""
    height, width = image.shape[1:]
    padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)))
    return {
        (down, right, mirrored): window[:, :, ::-1] if mirrored else window
        for down in range(2 * padding + 1)
        for right in range(2 * padding + 1)
        for window in [padded[:, down : down + height, right : right + width]]
        for mirrored in (False, True)
    }


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_equals_a_loop_over_the_images(padding, flip, dtype):
    images = IMAGES.to(dtype)
    result = augmented(images, INDEX, padding, flip, seed=5, epoch=2)
    assert result.dtype == dtype
    for image, index, one in zip(images, INDEX, result, strict=True):
        down, right, mirror, _ = (int(word) for word in words(5, AUGMENT, 2, index))
        shift = (down % (2 * padding + 1), right % (2 * padding + 1), flip and mirror % 2 == 1)
        np.testing.assert_array_equal(one.numpy(), windows(image, padding)[shift])


def test_without_padding_and_flip_images_stay():
    assert torch.equal(augmented(IMAGES, INDEX, 0, False, seed=5, epoch=2), IMAGES)


@pytest.mark.parametrize("order", [[5, 4, 3, 2, 1, 0], [2], [1, 1, 4]], ids=["reversed", "alone", "repeated"])
def test_draw_does_not_depend_on_the_rest_of_the_batch(order):
    whole = augmented(IMAGES, INDEX, 2, True, seed=1, epoch=0)
    assert torch.equal(augmented(IMAGES[order], INDEX[order], 2, True, seed=1, epoch=0), whole[order])


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 1}, {"index": INDEX + 1}], ids=["seed", "epoch", "index"])
def test_draw_depends_on_seed_epoch_and_index(other):
    key = {"index": INDEX, "seed": 1, "epoch": 0}
    results = [augmented(IMAGES, padding=4, flip=True, **k) for k in (key, key | other)]
    assert not torch.equal(*results)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("side", [1, 2, 3, 9])
def test_cutout_equals_a_loop_over_the_images(side, dtype):
    images = IMAGES.to(dtype)
    result = cut_out(images, augmentation_draws(5, 2, INDEX), side)
    assert result.dtype == dtype
    for image, index, one in zip(images, INDEX, result, strict=True):
        place = int(words(5, AUGMENT, 2, index)[3]) % 20  # of 5 x 4 pixels
        top, left = place // 4 - side // 2, place % 4 - side // 2
        expected = image.clone()
        for row in range(max(0, top), min(5, top + side)):
            for column in range(max(0, left), min(4, left + side)):
                expected[:, row, column] = 0
        assert torch.equal(one, expected)


def test_every_shift_and_mirror_is_as_frequent():
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 3, 3)
    samples = 3600
    results = augmented(image.expand(samples, -1, -1, -1), torch.arange(samples), 1, True, seed=0, epoch=0)
    legal = {window.tobytes(): key for key, window in windows(image, 1).items()}
    assert len(legal) == 18
    counts = dict.fromkeys(legal.values(), 0)
    for one in results.numpy():
        counts[legal[one.tobytes()]] += 1  # a KeyError is an illegal window
    # chi-square with 17 degrees of freedom: above 40.8 once in a thousand
    assert sum((n - samples / 18) ** 2 / (samples / 18) for n in counts.values()) < 40.8


def test_the_data_module_draws_by_epoch_and_index():
    data = CIFAR10DataModule(source="digits", crop_padding=2, normalize=False, draw_seed=7)
    images = data.dataset.train
    for epoch, index in ((0, [5, 3]), (0, [3, 900]), (1, [3]), (0, [5])):
        batch = Batch(images.images[index], images.labels[index], torch.tensor(index))
        expected = augmented(batch.images, batch.indices, 2, True, seed=7, epoch=epoch).float() / 255
        assert torch.equal(data.encode(batch, training=True, epoch=epoch).images, expected)


@pytest.mark.parametrize("flip", [False, True])
def test_the_data_module_cuts_out_of_training_images_alone(flip):
    data = CIFAR10DataModule(source="digits", crop_padding=0, flip=flip, cutout=3, normalize=False, draw_seed=7)
    images = data.dataset.train
    batch = Batch(images.images[:9], images.labels[:9], torch.arange(9))
    kept = augmented(batch.images, batch.indices, 0, flip, seed=7, epoch=2)
    expected = cut_out(kept, augmentation_draws(7, 2, batch.indices), 3).float() / 255
    assert torch.equal(data.encode(batch, training=True, epoch=2).images, expected)
    assert torch.equal(data.encode(batch).images, batch.images.float() / 255)


@pytest.mark.parametrize("flag", ["crop_padding", "cutout"])
def test_augmentation_that_leaves_nothing_of_an_image_is_refused(flag):
    CIFAR10DataModule(source="digits", **{flag: 31}).train_dataloader()
    with refused_with(f"--data.{flag}=32: of some images of 32x32 pixels nothing would be left"):
        CIFAR10DataModule(source="digits", **{flag: 32}).train_dataloader()
