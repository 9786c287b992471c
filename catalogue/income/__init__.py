"""Income above 50,000 dollars in 47 American states: a benchmark card and a data sheet."""
