"""How good answers are: measures, their error bars, and the temperature of scores."""
