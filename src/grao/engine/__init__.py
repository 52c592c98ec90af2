"""From groups to log-probabilities and gradients: model loading, packing, attention, the output layer, memory."""
