"""The release log's pure part: Merkle trees, their proofs, and signed checkpoints."""
