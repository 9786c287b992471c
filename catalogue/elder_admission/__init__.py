"""Preventable admissions among citizens aged 65 or more: a card, a data sheet and a synthetic twin."""
