"""The use cases that come along: a folder each, with a card and a data sheet, found by `catalogue.shelf`."""
