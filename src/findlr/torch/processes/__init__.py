"""Several processes that train one model: what they agree on, and how each learns that another one has failed."""
