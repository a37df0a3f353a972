"""Media that requests bring: fetched behind one guard, decoded within bounds."""
