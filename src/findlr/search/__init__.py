"""What drives a training: the sweep, the race, and the search that is made of them. It knows the protocol only."""
