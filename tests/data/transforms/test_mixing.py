"""Mixed batches: shares by hand, targets that always sum to what was put in, on, off and in between."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from effdense.data.transforms.mixing import BatchMixer
from effdense.errors import ConfigError, ShapeError


def batch(size: int = 4, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Picture i is filled with i, its label is i % 3."""
    inputs = torch.arange(size, dtype=torch.float32)[:, None, None, None].expand(size, 3, side, side)
    return inputs.contiguous(memory_format=torch.channels_last), torch.arange(size) % 3


def test_mixup_shares_picture_and_target_alike():
    """Picture i becomes lam * i + (1 - lam) * its neighbour; its target has the same shares."""
    torch.manual_seed(0)
    inputs, labels = batch(3)
    images, targets = BatchMixer(3, mixup=1.0, cutmix=0.0)(inputs, labels)
    lam = targets[0, 0].item()
    assert 0.0 < lam < 1.0
    # Neighbours in the roll: 0 with 2, 1 with 0, 2 with 1.
    want = torch.tensor([(1 - lam) * 2, lam, 2 * lam + (1 - lam)])
    torch.testing.assert_close(images[:, 0, 0, 0], want)
    torch.testing.assert_close(targets, torch.tensor([[lam, 0, 1 - lam], [1 - lam, lam, 0], [0, 1 - lam, lam]]))
    torch.testing.assert_close(images, want[:, None, None, None].expand_as(images))


def test_cutmix_counts_the_pixels_it_pastes():
    inputs, labels = batch(3)
    for seed in range(20):
        torch.manual_seed(seed)
        images, targets = BatchMixer(3, mixup=0.0, cutmix=1.0)(inputs, labels)
        assert set(images[0].unique().tolist()) <= {0.0, 2.0}
        assert targets[0, 2].item() == pytest.approx((images[0, 0] == 2.0).float().mean().item())
        torch.testing.assert_close(targets.sum(1), torch.ones(3))


def test_both_switch_per_batch_and_prob_is_a_share_of_batches():
    inputs, labels = batch()
    mixer = BatchMixer(3, mixup=1.0, cutmix=1.0, prob=0.6, switch_prob=0.25)
    kinds = []
    torch.manual_seed(0)
    for _ in range(600):
        images, targets = mixer(inputs, labels)
        assert targets.shape == (4, 3)
        whole = (images == images[:, :1, :1, :1]).all()
        kinds.append("none" if (images == inputs).all() else "mixup" if whole else "cutmix")
    shares = {kind: kinds.count(kind) / 600 for kind in set(kinds)}
    # Some CutMix rectangles cover nothing or everything.
    assert shares["mixup"] == pytest.approx(0.45, abs=0.08)
    assert shares["cutmix"] == pytest.approx(0.15, abs=0.06)
    assert shares["none"] == pytest.approx(0.40, abs=0.08)


def test_off_gives_back_what_came_and_draws_nothing():
    inputs, labels = batch()
    state = torch.random.get_rng_state()
    for mixer in (BatchMixer(3, mixup=0.0, cutmix=0.0), BatchMixer(3, prob=0.0)):
        images, targets = mixer(inputs, labels)
        assert images is inputs and targets is labels
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_batch_left_alone_has_one_hot_targets():
    inputs, labels = batch()
    mixer = BatchMixer(3, prob=1e-9)
    images, targets = mixer(inputs, labels)
    assert images is inputs and targets.shape == (4, 3)
    torch.testing.assert_close(targets, torch.nn.functional.one_hot(labels, 3).float())


def test_strength_can_be_set_between_epochs():
    inputs, labels = batch()
    mixer = BatchMixer(3, mixup=0.0, cutmix=0.0)
    mixer.mixup = 0.4
    torch.manual_seed(0)
    assert not torch.equal(mixer(inputs, labels)[0], inputs)
    mixer.mixup = -1.0
    with pytest.raises(ConfigError, match="at least 0"):
        mixer(inputs, labels)


def test_an_ignored_picture_leaves_its_share_empty():
    """Label -1: the target of a mix holds the other picture's share only."""
    torch.manual_seed(0)
    inputs, _ = batch(2)
    _, targets = BatchMixer(3, mixup=1.0, cutmix=0.0)(inputs, torch.tensor([1, -1]))
    lam = targets[0, 1].item()
    torch.testing.assert_close(targets, torch.tensor([[0, lam, 0], [0, 1 - lam, 0]]))


def test_inputs_are_not_changed_and_memory_stays_channels_last():
    inputs, labels = batch()
    before = inputs.clone()
    for options in ({"mixup": 1.0, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}):
        images, _ = BatchMixer(3, **options)(inputs, labels)
        assert images.is_contiguous(memory_format=torch.channels_last) and images.dtype == torch.float32
    assert torch.equal(inputs, before)
    half, _ = BatchMixer(3, cutmix=0.0)(inputs.half(), labels)
    assert half.dtype == torch.float16


def test_mean_share_follows_beta():
    """Beta(a, a) has variance 1 / (8 a + 4): small a mixes little."""
    inputs, labels = batch(2, side=2)
    for a in (0.2, 2.0):
        torch.manual_seed(1)
        shares = [BatchMixer(2, mixup=a, cutmix=0.0)(inputs, labels)[1][0, 0].item() for _ in range(800)]
        assert np.var(shares) == pytest.approx(1 / (8 * a + 4), rel=0.15)


@pytest.mark.parametrize("options", [{"mixup": -0.1}, {"cutmix": float("nan")}, {"prob": 1.1}, {"switch_prob": -1}])
def test_wrong_arguments(options):
    with pytest.raises(ConfigError, match="BatchMixer needs"):
        BatchMixer(3, **options)


def test_wrong_batches():
    inputs, labels = batch()
    mixer = BatchMixer(3)
    for wrong in ((inputs.to(torch.uint8), labels), (inputs, labels[:2]), (inputs[0], labels)):
        with pytest.raises(ShapeError, match="Mix after normalising"):
            mixer(*wrong)
    for label in (3, -2):
        with pytest.raises(ShapeError, match=f"{label}"):
            mixer(inputs[:1], torch.tensor([label]))
