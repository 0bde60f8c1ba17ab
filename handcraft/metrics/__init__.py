"""Recognition and motion metrics, each with its signature."""
