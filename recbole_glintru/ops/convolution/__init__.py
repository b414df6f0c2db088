"""The centred convolution over the positions of each history."""
