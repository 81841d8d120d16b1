"""What a sweep's and a race's numbers say: pure functions of NumPy arrays; nothing here trains."""
