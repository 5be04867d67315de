"""ArcFace against its definition, and against pytorch-metric-learning in values and gradients."""

import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import ArcFaceLoss, SubCenterArcFaceLoss
from pytorch_metric_learning.reducers import DoNothingReducer
from torch.nn import functional

from exreid.models.arcface import ArcFace, Softmax, add_angular_margin

B, D, C = 24, 7, 5


def _inputs(dtype, spread=1.0):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(B, D, generator=generator, dtype=torch.float64) * spread
    labels = torch.randint(0, C, (B,), generator=generator)
    return embeddings.to(dtype).requires_grad_(True), labels


def _reference(sub_centers, margin_rad, scale):
    options = {
        "num_classes": C,
        "embedding_size": D,
        "margin": np.degrees(margin_rad),
        "scale": scale,
    }
    if sub_centers == 1:
        loss = ArcFaceLoss(**options)
    else:
        loss = SubCenterArcFaceLoss(**options, sub_centers=sub_centers)
    # Set afterwards: before 2.9.0 the sub-center loss drops the reducer that it is given.
    loss.reducer = DoNothingReducer()
    return loss


@pytest.mark.parametrize("sub_centers", [1, 3])
@pytest.mark.parametrize("margin_rad", [0.0, 0.5, 1.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_equal_pytorch_metric_learning(sub_centers, margin_rad, dtype):
    torch.manual_seed(1)
    head = ArcFace(D, C, margin_rad=margin_rad, scale=30.0, sub_centers=sub_centers).to(dtype)
    reference = _reference(sub_centers, margin_rad, 30.0)
    reference.W = torch.nn.Parameter(head.weight.detach().T.clone())
    embeddings, labels = _inputs(dtype)
    # The head computes in fp32; in float64 only its inputs are exact.
    ours = head.float()(embeddings, labels)
    ours.sum().backward()
    ours_grad, embeddings.grad = embeddings.grad.clone(), None
    theirs = reference(embeddings, labels)["loss"]["losses"]
    theirs.sum().backward()
    tolerance = {"rtol": 2e-4, "atol": 2e-4}
    torch.testing.assert_close(ours.double(), theirs.double(), **tolerance)
    torch.testing.assert_close(ours_grad, embeddings.grad, **tolerance)
    torch.testing.assert_close(
        head.weight.grad.double(), reference.W.grad.T.double(), rtol=2e-4, atol=0.02
    )


def test_the_margin_turns_the_angle():
    angle = torch.linspace(0.01, math.pi - 0.01, 200, dtype=torch.float64)
    margin = 0.6
    moved = add_angular_margin(torch.cos(angle), margin)
    inside = angle <= math.pi - margin
    torch.testing.assert_close(moved[inside], torch.cos(angle + margin)[inside])
    assert (torch.diff(moved) < 0).all(), "it must fall all the way to an angle of pi"
    assert torch.autograd.gradcheck(
        lambda cosine: add_angular_margin(cosine, margin),
        torch.linspace(-0.99, 0.99, 21, dtype=torch.float64, requires_grad=True),
    )


@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0 - 6e-8, -1.0 + 6e-8, 0.9999])
@pytest.mark.parametrize("margin_rad", [0.0, 0.5])
def test_finite_at_the_poles(cosine, margin_rad):
    value = torch.tensor([cosine], requires_grad=True)
    moved = add_angular_margin(value, margin_rad)
    moved.backward()
    assert torch.isfinite(moved).all()
    assert torch.isfinite(value.grad).all()
    assert value.grad.abs() < 1e4


def test_an_embedding_on_its_class_centre_has_finite_gradients():
    head = ArcFace(D, C, margin_rad=0.5, scale=64.0)
    with torch.no_grad():
        head.weight[2] = torch.arange(1.0, D + 1)
    embeddings = head.weight[2:3].detach().clone().mul(3.0).requires_grad_(True)
    loss = head(embeddings, torch.tensor([2]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(embeddings.grad).all()
    assert torch.isfinite(head.weight.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_margin_is_fp32_under_autocast(dtype):
    head = ArcFace(D, C)
    embeddings, labels = _inputs(torch.float32)
    low = embeddings.detach().to(dtype)
    with torch.autocast("cpu", dtype):
        loss = head(low, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, head(low.float(), labels), rtol=0, atol=0)


def test_without_margin_it_is_a_softmax_of_scaled_cosines():
    head = ArcFace(D, C, margin_rad=0.5, scale=20.0)
    embeddings, labels = _inputs(torch.float32)
    cosine = functional.normalize(embeddings) @ functional.normalize(head.weight).T
    plain = functional.cross_entropy(20.0 * cosine, labels, reduction="none")
    torch.testing.assert_close(head(embeddings, labels, 0.0), plain, rtol=1e-4, atol=1e-4)
    assert (head(embeddings, labels, 1.0) > plain).all()


def test_the_nearest_centre_of_a_class_counts():
    head = ArcFace(2, 2, margin_rad=0.0, scale=1.0, sub_centers=2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
    loss = head(torch.tensor([[0.0, 2.0]]), torch.tensor([0]))
    # Class 0 has cosines 0 and 1, class 1 has 0 and -1.
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)


def test_softmax_is_a_linear_classifier():
    head = Softmax(D, C)
    embeddings, labels = _inputs(torch.float32)
    expected = functional.cross_entropy(head.linear(embeddings), labels, reduction="none")
    torch.testing.assert_close(head(embeddings, labels), expected)
