"""Researchers' side: all municipalities on one machine, through the same ServerApp and ClientApp as a live run."""
