"""What drives a training: the sweep, the race, and the search made of both. It knows nothing but the protocols."""
