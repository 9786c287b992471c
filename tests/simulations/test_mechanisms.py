"""Seeded streams: one for each release, the same in every run, and of the distribution that is asked for."""

import itertools

import numpy as np

from simulations.mechanisms import SeededMechanisms, seeded_bytes


def first_numbers(
    seed: int, municipality: str, server_round: int, kind: str, federation: str = "f"
) -> tuple[float, ...]:
    mechanisms = SeededMechanisms(seed=seed, municipality=municipality)
    return tuple(mechanisms.open_release(federation, server_round, kind).gaussian(3, 1.0))


def test_every_release_has_a_stream_of_its_own() -> None:
    releases = list(itertools.product((1, 11), ("0101", "101"), (1, 2, 12), ("train", "evaluate")))
    assert len({first_numbers(*release) for release in releases}) == len(releases)


def test_the_same_release_of_another_arm_meets_the_same_stream() -> None:
    assert first_numbers(1, "0101", 1, "train", "f") == first_numbers(1, "0101", 1, "train", "g")


def test_parts_are_told_apart() -> None:
    assert seeded_bytes("a", 1, 23) != seeded_bytes("a", 12, 3)


def test_streams_have_the_stated_distribution() -> None:
    randomness = SeededMechanisms(seed=1, municipality="0101").open_release("f", 1, "train")
    noise = randomness.gaussian(100_000, 3.0)
    assert abs(noise.std() - 3.0) < 0.05
    assert abs(noise.mean()) < 0.05
    assert abs(randomness.include(100_000, 0.3).mean() - 0.3) < 0.01
    assert randomness.include(100, 1.0).all()
    assert not randomness.include(100, 0.0).any()
    np.testing.assert_array_equal(randomness.gaussian(5, 0.0), np.zeros(5))
