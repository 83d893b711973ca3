"""What runs: the canonical description of an application, its package, and the settings it may choose."""
