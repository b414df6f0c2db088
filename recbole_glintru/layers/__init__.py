"""Building blocks of the models; those from a paper say which one, and which equation they implement."""
