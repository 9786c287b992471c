"""Measure how fast a round is: this simulator beside others, on the same work, in one run."""
