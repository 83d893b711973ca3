"""Evidence as bytes and as frozen dataclasses. Reading proves nothing: values are claims until they are verified."""
