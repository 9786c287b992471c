"""The floor multiplies what a round has to, and counts it as one does by hand."""

import torch

from simulations.speed.floor import Products, measure, multiply_adds
from simulations.speed.workload import Workload

LOGISTIC = Workload(name="logistic", sites=3, rows=300, batch_size=100, hidden=())
MLP = Workload(name="mlp", sites=3, rows=300, batch_size=100, hidden=(4, 2))


def test_a_logistic_round_goes_forward_and_gathers_one_gradient() -> None:
    assert multiply_adds(LOGISTIC) == 300 * (30 + 30)


def test_an_mlp_sends_gradients_back_through_all_layers_but_the_first() -> None:
    forward = 30 * 4 + 4 * 2 + 2 * 1
    back = 4 * 2 + 2 * 1
    assert multiply_adds(MLP) == 300 * (2 * forward + back)


def test_the_products_are_those_of_a_linear_networks_backward_pass() -> None:
    products = Products(5, (30, 4, 1))
    products.multiply()
    first, second = (weight.clone().requires_grad_() for weight in products.weights_IO)
    scores = products.values_NI[0] @ first @ second
    (scores.square().sum() / 2).backward()  # type: ignore[no-untyped-call]  # whose gradient in the scores is the scores
    for weight, gradient in zip((first, second), products.weight_gradients_IO, strict=True):
        torch.testing.assert_close(gradient, weight.grad)


def test_every_repeat_is_timed_and_threads_stay_as_they_were() -> None:
    threads = torch.get_num_threads()
    measured = measure(MLP, 3)
    assert len(measured.rounds_s) == 3
    assert min(measured.rounds_s) > 0
    assert measured.median_s <= measured.whole_s
    assert torch.get_num_threads() == threads
