"""Everything that a step can change, remembered, and put back in place."""
