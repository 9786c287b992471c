"""Describe a study's municipalities for its result; what live runs have too stands in server/summary.py."""

from collections.abc import Sequence

from server.result import Site
from simulations import population


def sites_of(sites: Sequence[population.Site], counts: dict[str, tuple[int, int]]) -> dict[str, Site]:
    """Describe the simulated municipalities; counts are of training and held-out citizens."""
    return {
        site.label: Site(
            name=site.name,
            declared_size=site.declared_size,
            citizens=sum(counts[site.label]),
            training_citizens=counts[site.label][0],
            held_out_citizens=counts[site.label][1],
        )
        for site in sites
    }
