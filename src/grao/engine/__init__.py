"""From groups to log-probabilities and gradients: loading, the packed row, attention, the output layer, memory."""
