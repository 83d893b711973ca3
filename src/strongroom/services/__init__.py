"""The owner's side over HTTPS: the attestation service and the key service."""
