"""Heart disease under FLamby's protocol, without privacy: a benchmark card, a data sheet, an adapter."""
