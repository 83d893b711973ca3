"""Keys: their hierarchy, where they are kept, and the decision to let one out."""
