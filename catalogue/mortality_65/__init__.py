"""Deaths within a year among citizens aged 65 or more, in all 98 municipalities: a card, a data sheet, an adapter."""
