"""The kernel: what coordinator and municipality must agree on.

Cards, features, models, the privacy plan with its accountant and mechanisms, and the names on the wire. Imports none
of the other packages and no Hydra.
"""
