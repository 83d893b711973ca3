"""HTTP clients of the services: Azure's contracts and our own."""
