"""Simulated hardware: real formats and signatures under roots that say they are simulated. It protects nothing."""
