"""Where the positions of a batch of histories lie in memory."""
