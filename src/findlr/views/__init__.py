"""What people look at: each view takes a Finding, or the steps of a sweep that runs."""
