"""From scores to probabilities: curves, the pairs that they are fitted on, fusion, the budget."""
