"""The first process of each TEE: measure, attest, obtain keys, serve the key socket, run the engine as its child."""
