"""How good forecasts are: the cases to judge them by, scores, and baselines."""
