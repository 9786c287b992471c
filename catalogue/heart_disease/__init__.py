"""Heart disease at four hospitals, with declared ranges and an honest epsilon: a benchmark card and a data sheet."""
