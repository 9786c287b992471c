"""Chemistry grades in 131 English education authorities: a benchmark card and a data sheet."""
